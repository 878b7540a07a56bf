"""Joining and leaving: makes this process, or this thread, a replica."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx_cbp.distributed import groups as group_names
from onnx_cbp.distributed import membership, native, uncaught
from onnx_cbp.distributed.communicator import Communicator
from onnx_cbp.distributed.membership import current, is_initialized
from onnx_cbp.distributed.replica import Replica
from onnx_cbp.errors import OnnxCbpError

ENGINE_VARIABLE = "ONNX_CBP_COMMUNICATOR"
TIMEOUT_VARIABLE = "ONNX_CBP_TIMEOUT"
DEFAULT_TIMEOUT = 300.0
_ENGINES = "'mpi', 'torch', 'threads'"
#: Whether this process has been a replica: after `finalize` nothing joins but what is asked to.
_has_joined = False


def initialize(
    engine: str | Communicator | None = None,
    *,
    timeout: float | None = None,
    groups: Mapping[str, Sequence[Sequence[int]]] | None = None,
    **options: Any,
) -> None:
    """Make this process a replica (with "threads": this thread). Every replica calls it; it waits for all of them.

    Args:
        engine: "mpi" (mpi4py; options: `comm`, a communicator of mpi4py's, default COMM_WORLD), "torch"
            (torch.distributed; options: those of `torch.distributed.init_process_group`, unless that was called
            before; backend "gloo" by default), "threads" (threads of this program; options: `rank` and `world_size`),
            or a communicator of your own. Default: the environment variable ONNX_CBP_COMMUNICATOR.
        timeout: seconds that a collective, and this call, may wait for the other replicas. Default: the environment
            variable ONNX_CBP_TIMEOUT, else 300. A communicator of your own has a time limit of its own.
        groups: more groups than "world" and "size:K", by name: parts of the world, each a list of ranks, that hold
            every rank once. The same on every replica.
        options: of the engine.

    Raises:
        OnnxCbpError: an unknown engine, one that is not installed, wrong options, or a replica already.
        CommunicationError: not all replicas came within the time.
    """
    seconds = _timeout(timeout)
    if is_initialized():
        raise OnnxCbpError("this is a replica already: call onnx_cbp.distributed.finalize() first")
    source = "engine"
    if engine is None:
        source, engine = f"the environment variable {ENGINE_VARIABLE}", os.environ.get(ENGINE_VARIABLE)
    if engine is None:
        raise OnnxCbpError(f"initialize() needs an engine: {_ENGINES}; or set {source}")
    world = engine if isinstance(engine, Communicator) else _make(engine, source, seconds, options)
    try:
        named = group_names.check_named(groups or {}, world.size)
    except OnnxCbpError:
        world.close(failed=True)
        raise
    global _has_joined
    _has_joined = True
    replica = Replica(world, seconds, named)
    with membership.lock:
        membership.join(replica, thread=engine == "threads")
        native.set_communicator(True)
    uncaught.listen()
    atexit.register(_finalize_quietly)


def initialize_from_environment() -> None:
    """`initialize()`, if the environment variable names an engine and there is no replica yet."""
    if os.environ.get(ENGINE_VARIABLE) and not is_initialized():
        initialize()


def finalize() -> None:
    """Stop being a replica: sessions run alone again. If this is no replica, nothing happens.

    After a failed collective, the engine keeps its resources until the end of the process.
    """
    with membership.lock:
        replica = membership.leave()
        native.set_communicator(bool(membership.replica_threads()))
    if replica is not None:
        replica.close()


def rank() -> int:
    """This replica's number, from 0; 0 if it is the only one.

    If ONNX_CBP_COMMUNICATOR names an engine, the first call joins it: a program that asks for its part of the data
    before it registers the library must not get that of a single process.
    """
    replica = _replica()
    return 0 if replica is None else replica.world.rank


def world_size() -> int:
    """The number of replicas; 1 without a communicator. It joins as `rank` does."""
    replica = _replica()
    return 1 if replica is None else replica.world.size


def _replica() -> Replica | None:
    if not _has_joined:
        initialize_from_environment()
    return current()


@contextlib.contextmanager
def without_samples() -> Iterator[None]:
    """Take part in the steps inside without samples: what this replica feeds does not count.

    ONNX Runtime cannot train on an empty batch. A replica without samples for a step feeds any valid batch instead,
    such as one sample of zeros. Its count, and its part of every statistic, of the loss and of all gradients are sent
    as 0, and it gets the same results as all others:

        with onnx_cbp.distributed.without_samples():
            module(*placeholder)

    The graph must exchange everything that it keeps: rewrite it with `synchronize` (or let it have no batch norm that
    trains) and `data_parallel`.

    Raises:
        OnnxCbpError: this is no replica, so there would be no samples at all.
    """
    replica = current()
    if replica is None:
        raise OnnxCbpError("without_samples() is for one of several replicas: call initialize() first")
    before, replica.without_samples = replica.without_samples, True
    try:
        yield
    finally:
        replica.without_samples = before


def _make(engine: str, source: str, timeout: float, options: Mapping[str, Any]) -> Communicator:
    # Imported here: an engine's package need not be installed.
    made: Any
    if engine == "mpi":
        from onnx_cbp.distributed.mpi import MPICommunicator

        made = MPICommunicator
    elif engine == "torch":
        from onnx_cbp.distributed.torch import TorchCommunicator

        made = TorchCommunicator
    elif engine == "threads":
        from onnx_cbp.distributed.threads import ThreadCommunicator

        made = ThreadCommunicator
    else:
        raise OnnxCbpError(f"{source} is {engine!r}; use one of {_ENGINES}")
    try:
        communicator: Communicator = made.join(timeout=timeout, **options)
        return communicator
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise OnnxCbpError(f"initialize({engine!r}): {str(error).removeprefix(f'{made.__name__}.join() ')}") from error


def _timeout(timeout: float | None) -> float:
    name: str = "timeout"
    value: Any = timeout
    if timeout is None:
        name, value = f"the environment variable {TIMEOUT_VARIABLE}", os.environ.get(TIMEOUT_VARIABLE, DEFAULT_TIMEOUT)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0.0 < seconds < threading.TIMEOUT_MAX:
        raise OnnxCbpError(f"{name} is {value!r}; it must be a number of seconds above 0")
    return seconds


def _finalize_quietly() -> None:
    """At the end of the process: an open engine might wait for replicas that are gone."""
    try:
        finalize()
    except OnnxCbpError:
        return
