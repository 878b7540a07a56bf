"""Replicas that are processes of torch.distributed."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from onnx_cbp.distributed.communicator import CommunicationError, Communicator
from onnx_cbp.errors import OnnxCbpError

#: When this process gives up: how many seconds the others have to answer that they live.
_ROLL_CALL = 1.0
#: The key under which a process that meets an exception leaves a message.
_WORD = "onnx_cbp/gave_up"


def _load() -> tuple[Any, Any]:
    try:
        import torch
        import torch.distributed
    except ImportError as error:
        raise OnnxCbpError(f"initialize('torch') needs PyTorch ({error}): pip install torch") from error
    if not torch.distributed.is_available():
        raise OnnxCbpError("initialize('torch'): this PyTorch was built without torch.distributed; install another")
    return torch, torch.distributed


class TorchCommunicator(Communicator):
    """A process with its own process group: gloo's on the CPU, or NCCL's, which uses the current GPU."""

    def __init__(self, group: Any, timeout: float, roll_call: Any, owns_default_group: bool = False) -> None:
        torch, distributed = _load()
        self.rank = distributed.get_rank(group)
        self.size = distributed.get_world_size(group)
        self._group = group
        self._timeout = timeout
        self._roll_call = roll_call
        self._owns_default_group = owns_default_group
        self._torch, self._distributed = torch, distributed
        self._backend = distributed.get_backend(group)
        self._device = "cuda" if self._backend == "nccl" else "cpu"
        self._unfinished: list[Any] = []
        self._store = distributed.distributed_c10d._get_default_store()  # PyTorch has no public name for it

    @classmethod
    def join(cls, *, timeout: float, backend: str | None = None, **options: Any) -> TorchCommunicator:
        """Join torch.distributed's default process group; make it if there is none.

        Args:
            timeout: seconds.
            backend: "gloo" (default) or "nccl", for the messages; it may differ from the default group's.
            options: of `torch.distributed.init_process_group`, if it was not called before.

        Raises:
            OnnxCbpError: no PyTorch, or options that it refuses.
            CommunicationError: not all came within the time.
        """
        _, distributed = _load()
        limit = timedelta(seconds=timeout)
        owns = not distributed.is_initialized()
        if not owns and options:
            raise OnnxCbpError(
                f"initialize('torch'): torch.distributed is initialised already; leave out {', '.join(options)}"
            )
        try:
            if owns:
                distributed.init_process_group(backend or "gloo", timeout=limit, **options)
            # A group of our own, with our own time limit.
            group = distributed.new_group(backend=backend or "gloo", timeout=limit)
            roll_call = distributed.new_group(backend="gloo", timeout=limit)
        except (ValueError, TypeError, AssertionError) as error:  # that of an unknown backend
            raise OnnxCbpError(f"initialize('torch'): {_one_line(error)}") from error
        except RuntimeError as error:
            rank = options.get("rank", os.environ.get("RANK", "?"))
            raise CommunicationError(
                f"rank {rank}: initialize: not all replicas came within {timeout:g} s ({_one_line(error)})"
            ) from error
        return cls(group, timeout, roll_call, owns)

    def all_reduce(self, message: np.ndarray) -> None:
        """Sum with torch.distributed.all_reduce."""
        tensor = self._tensor(message)

        def start() -> Any:
            return self._distributed.all_reduce(tensor, group=self._group, async_op=True)

        self._wait(start, tensor, message)

    def all_gather(self, message: np.ndarray, gathered: np.ndarray) -> None:
        """Gather with torch.distributed.all_gather."""
        tensor, every = self._tensor(message), self._tensor(gathered)

        def start() -> Any:
            return self._distributed.all_gather(list(every.unbind()), tensor, group=self._group, async_op=True)

        self._wait(start, every, gathered)

    def split(self, partition: Sequence[Sequence[int]]) -> TorchCommunicator:
        """Make a process group for each group; all processes take part in making all."""
        mine = None
        ranks = self._distributed.get_process_group_ranks(self._group)
        for part in partition:
            made = self._distributed.new_group(
                [ranks[r] for r in part], timeout=timedelta(seconds=self._timeout), backend=self._backend
            )
            mine = made if self.rank in part else mine
        return TorchCommunicator(mine, self._timeout, self._roll_call)

    def abort(self, reason: str, *, ends: bool = True) -> None:
        """Leave a message in the store at which the processes met: they look there when a collective fails.

        It will fail, because this process ends and so closes its connections.
        """
        if not self._word():  # the first message is the cause of the others
            with contextlib.suppress(RuntimeError, ValueError):  # the process with the store may be gone
                self._store.set(_WORD, f"rank {self._distributed.get_rank()} gave up: {reason}"[:1000])
        if not ends:
            with contextlib.suppress(OSError, ValueError):  # closed already
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(1)

    def close(self, failed: bool) -> None:
        """Destroy the process group; the default one too, if it was made here."""
        if failed or not self._distributed.is_initialized():
            return
        self._distributed.destroy_process_group(None if self._owns_default_group else self._group)

    def _tensor(self, array: np.ndarray) -> Any:
        tensor = self._torch.from_numpy(array)
        return tensor if self._device == "cpu" else tensor.to(self._device)

    def _wait(self, start: Callable[[], Any], result: Any, array: np.ndarray) -> None:
        try:
            work = start()
            if self._device == "cpu":
                work.wait()
            else:
                work.wait(timedelta(seconds=self._timeout))
                array[...] = result.cpu().numpy()
        except RuntimeError as error:
            self._unfinished.append((result, array))
            reason = f"torch.distributed ({self._backend}): {_one_line(error)}"
            raise CommunicationError(reason + (self._word() or self._silent())) from error

    def _word(self) -> str:
        """The message that a process with an exception left for the others, as a clause for an error."""
        with contextlib.suppress(RuntimeError, ValueError):
            if self._store.check([_WORD]):
                return f"; {self._store.get(_WORD).decode(errors='replace')}"
        return ""

    def _silent(self) -> str:
        """Who in the world does not answer for a while: they stall, or are gone. A clause for an error."""
        try:
            limit = timedelta(seconds=_ROLL_CALL)
            self._distributed.monitored_barrier(self._roll_call, limit, wait_all_ranks=True)
        except RuntimeError as error:
            # Rank 0 learns about all; the others learn only about rank 0.
            ranks = re.search(r"Ranks? ([\d, ]*\d) failed to pass", str(error))
            if ranks:
                return f"; no word from rank {ranks[1]}"
        return ""


def _one_line(error: BaseException) -> str:
    """The message without the C++ source lines that PyTorch adds around it."""
    first = str(error).strip().splitlines()[0]
    return re.sub(r"^\[\S*\] |\. This is typically caused by.*", "", first)
