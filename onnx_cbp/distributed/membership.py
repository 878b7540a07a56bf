"""Which replica a thread works for. `lifecycle.py` writes this, and everything that communicates reads it."""

from __future__ import annotations

import threading

from onnx_cbp.distributed.communicator import CommunicationError
from onnx_cbp.distributed.replica import Replica

lock = threading.Lock()
_process: Replica | None = None
_thread = threading.local()
_threads: dict[threading.Thread, Replica] = {}


def join(replica: Replica, *, thread: bool) -> None:
    """Make the process a replica, or the calling thread; called with the lock held."""
    global _process
    if thread:
        _thread.replica = _threads[threading.current_thread()] = replica
    else:
        _process = replica


def leave() -> Replica | None:
    """Make the calling thread, or the process, no replica any more; called with the lock held.

    Returns:
        The former replica.
    """
    global _process
    replica, _process = getattr(_thread, "replica", None) or _process, None
    _thread.replica = None
    _threads.pop(threading.current_thread(), None)
    return replica


def is_initialized() -> bool:
    """Whether this process, or this thread, is a replica."""
    return getattr(_thread, "replica", None) is not None or _process is not None


def current() -> Replica | None:
    """The replica that the calling thread works for; None if there is only one.

    Raises:
        CommunicationError: other threads are replicas, and this one is not.
    """
    if _process is not None:
        return _process
    replica: Replica | None = getattr(_thread, "replica", None)
    if replica is None and replica_threads():
        raise CommunicationError(
            f"thread '{threading.current_thread().name}' is no replica while others are: call "
            "onnx_cbp.distributed.initialize('threads', ...) in it, or run with execution_mode ORT_SEQUENTIAL"
        )
    return replica


def of(thread: threading.Thread | None) -> Replica | None:
    """The replica of a thread, or of its process; None if there is neither."""
    return _process if _process is not None or thread is None else _threads.get(thread)


def replica_threads() -> set[int | None]:
    """The threads of this program that are replicas, by identifier."""
    return {thread.ident for thread in list(_threads) if thread.is_alive()}
