"""Replicas that are processes under MPI, through mpi4py."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from onnx_cbp.distributed.communicator import CommunicationError, Communicator
from onnx_cbp.errors import OnnxCbpError

#: A wait spins for this many seconds, then yields the core for this many, then sleeps between two checks.
_SPIN = 5e-5
_YIELD = 2e-3
_NAP = 1e-4
#: Seconds between two checks whether another process has given up.
_LISTEN = 0.02
#: When this process gives up: how many seconds the others have to answer that they live.
_ROLL_CALL = 0.5
#: How many seconds the others have to report, before this process ends them all.
_LAST_WORDS = 2.0
#: The tag of alarms; no other message goes from one process to another.
_TAG = 20719


def _load() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        raise OnnxCbpError(f"initialize('mpi') needs mpi4py ({error}): pip install mpi4py mpich") from error
    return MPI


class _Alarm:
    """Lets a process that gives up tell the others, and hears what they tell."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._heard: dict[int, str] = {}
        self._raised = False
        self._sent: list[Any] = []

    def raise_(self, reason: str) -> None:
        if self._raised:
            return
        self._raised = True
        text = bytearray(reason.encode()[:1000])
        others = [rank for rank in range(self._comm.size) if rank != self._comm.rank]
        self._sent = [(self._comm.Isend(text, rank, _TAG), text) for rank in others]

    def hear(self) -> dict[int, str]:
        """The reports of all processes that have given up."""
        MPI = _load()
        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, _TAG, status):
            text = bytearray(status.Get_count(MPI.BYTE))
            self._comm.Recv(text, source=status.source, tag=status.tag)
            self._heard[status.source] = text.decode(errors="replace")
        return self._heard

    def silent(self, ranks: Iterable[int]) -> str:
        """Which of the others do not answer for a while: they stall, or are gone. A clause for an error."""
        end = time.monotonic() + _ROLL_CALL
        missing = set(ranks) - {self._comm.rank}
        while missing - set(self.hear()) and time.monotonic() < end:
            time.sleep(_NAP)
        still = sorted(missing - set(self._heard))
        return f"; no word from rank {', '.join(map(str, still))}" if still else ""


class MPICommunicator(Communicator):
    """A process with its own MPI communicator."""

    def __init__(self, comm: Any, timeout: float, ranks: Sequence[int], alarm: _Alarm) -> None:
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()
        self._comm = comm
        self._timeout = timeout
        self._ranks = tuple(ranks)
        self._alarm = alarm
        self._in_place = _load().IN_PLACE
        self._unfinished: list[Any] = []

    @classmethod
    def join(cls, *, timeout: float, comm: Any = None) -> MPICommunicator:
        """Join the processes of `comm` (default: COMM_WORLD), which all call this.

        Raises:
            OnnxCbpError: no mpi4py, or MPI was started for one thread only, and this is another thread.
            CommunicationError: not all came within the time.
        """
        MPI = _load()
        comm = MPI.COMM_WORLD if comm is None else comm
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED and not MPI.Is_thread_main():
            raise OnnxCbpError(
                "initialize('mpi'): MPI was started for its main thread only; call this there and run sessions there, "
                "or set mpi4py.rc.thread_level = 'multiple' before MPI is imported"
            )
        try:
            world = _within(timeout, comm.Dup)
            alarm = _Alarm(_within(timeout, comm.Dup))
        except CommunicationError as error:
            # There is no communicator of our own yet to report this on.
            alarm = _Alarm(comm)
            alarm.raise_(str(error))
            raise CommunicationError(
                f"rank {comm.rank} of {comm.size}: initialize: {error}{alarm.silent(range(comm.size))}"
            ) from None
        return cls(world, timeout, range(comm.size), alarm)

    def all_reduce(self, message: np.ndarray) -> None:
        """Sum with MPI_Iallreduce."""
        self._wait(self._comm.Iallreduce(self._in_place, message), message)

    def all_gather(self, message: np.ndarray, gathered: np.ndarray) -> None:
        """Gather with MPI_Iallgather."""
        self._wait(self._comm.Iallgather(message, gathered), message, gathered)

    def split(self, partition: Sequence[Sequence[int]]) -> MPICommunicator:
        """Split with MPI_Comm_split."""
        color, part = next((i, p) for i, p in enumerate(partition) if self.rank in p)
        comm = _within(self._timeout, lambda: self._comm.Split(color, self.rank))
        return MPICommunicator(comm, self._timeout, [self._ranks[r] for r in part], self._alarm)

    def abort(self, reason: str, *, ends: bool = True) -> None:
        """Tell the others, who hear it in their collectives; a little later, end all that are still there."""
        if _load().Is_finalized():
            return
        self._alarm.raise_(reason)
        if ends:
            _end_all_at_exit()
        else:
            _end_all()

    def close(self, failed: bool) -> None:
        """Free the communicator; after a failure, end all processes when this one ends."""
        if failed:
            self._alarm.raise_("it left after a failure")
            _end_all_at_exit()
        elif not _load().Is_finalized():
            self._comm.Free()

    def _wait(self, request: Any, *arrays: np.ndarray) -> None:
        test, now = request.Test, time.monotonic
        if test():
            return
        started = heard = now()
        while not test():
            waited = now() - started
            if waited < _SPIN:
                continue
            if waited < _YIELD:
                os.sched_yield()
                continue
            time.sleep(_NAP)
            if now() - heard > _LISTEN or waited > self._timeout:
                heard = now()
                reason = self._reason_to_stop(waited > self._timeout)
                if reason:
                    # nothing can stop it any more, so the memory must stay
                    self._unfinished.append((request, arrays))
                    _end_all_at_exit()
                    raise CommunicationError(reason)

    def _reason_to_stop(self, late: bool) -> str | None:
        heard = self._alarm.hear()
        if heard:
            rank, text = next(iter(heard.items()))
            reason = f"rank {rank} gave up: {text}"
        elif late:
            reason = text = f"not all replicas came within {self._timeout:g} s"
        else:
            return None
        self._alarm.raise_(text)
        return reason + self._alarm.silent(self._ranks)


def _within(timeout: float, call: Callable[[], Any]) -> Any:
    """Give a call of MPI a time limit: it runs in a thread, which is left behind if it takes too long."""
    MPI = _load()
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        return call()
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="onnx_cbp: an MPI call", daemon=True)
    thread.start()
    thread.join(timeout)
    if errors:
        raise errors[0]
    if not results:
        _end_all_at_exit()
        raise CommunicationError(f"not all replicas came within {timeout:g} s")
    return results[0]


_ends_all = False


def _end_all_at_exit() -> None:
    """After a failure, MPI_Finalize would wait for processes that never come: so end them with this one."""
    global _ends_all
    if _ends_all:
        return
    _ends_all = True

    atexit.register(_end_all)


def _end_all() -> None:
    time.sleep(_LAST_WORDS)
    with contextlib.suppress(OSError, ValueError):  # closed already
        sys.stdout.flush()
        sys.stderr.flush()
    _load().COMM_WORLD.Abort(1)
