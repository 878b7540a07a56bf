"""Replicas in threads, started and joined in one call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TypeVar

from onnx_cbp.distributed.lifecycle import finalize, initialize
from onnx_cbp.distributed.membership import current
from onnx_cbp.errors import OnnxCbpError

Result = TypeVar("Result")


def run_replicas(
    function: Callable[[], Result],
    world_size: int,
    *,
    timeout: float | None = None,
    groups: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> list[Result]:
    """Run a function in `world_size` threads, each of which is a replica; returns the results by rank.

    Args:
        function: what a replica does, with its own sessions; `rank()` says which replica it is.
        world_size: the number of replicas.
        timeout: as in `initialize`.
        groups: as in `initialize`.

    Raises:
        Exception: the error of the first replica that failed. The collectives of the others end with an error at once.
    """
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def replicate(rank: int) -> None:
        try:
            initialize("threads", rank=rank, world_size=world_size, timeout=timeout, groups=groups)
            try:
                results[rank] = function()
            except BaseException as error:
                errors.append(error)
                replica = current()
                if replica is not None:
                    replica.world.abort(" ".join(str(error).split()))
            finally:
                finalize()
        except BaseException as error:
            errors.append(error)

    if not isinstance(world_size, Integral) or world_size < 1:
        raise OnnxCbpError(f"run_replicas: world_size is {world_size!r}; it must be a number, 1 or more")
    threads = [
        threading.Thread(target=replicate, args=(rank,), name=f"replica {rank}", daemon=True)
        for rank in range(world_size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(world_size)]
