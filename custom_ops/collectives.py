"""Collectives on numpy arrays for Python ops, through the communicator of this replica."""

from __future__ import annotations

import threading

import numpy as np

from onnx_cbp.distributed import membership
from onnx_cbp.distributed.communicator import CommunicationError
from onnx_cbp.distributed.replica import HEADER, describe


def replicas(name: str, group: str) -> int:
    """The number of replicas in this replica's part of a group; 1 without a communicator.

    Raises:
        OnnxCbpError: the group is unknown, or this thread cannot communicate.
    """
    # Python knows no name of a thread that it did not start, such as the threads of ONNX Runtime's pools.
    started_elsewhere = isinstance(threading.current_thread(), threading._DummyThread)
    if started_elsewhere and (membership.replica_threads() or membership.is_initialized()):
        raise CommunicationError(
            f"{name}: the node runs on a thread of ONNX Runtime's pool, where collectives have no order: use "
            "execution_mode ORT_SEQUENTIAL"
        )
    replica = membership.current()
    return 1 if replica is None else replica.replicas(group)


def all_gather(name: str, layer: str, group: str, payload: np.ndarray) -> np.ndarray:
    """The payloads [n] of all replicas of the group, by rank: [replicas, n].

    Raises:
        CommunicationError: one line.
    """
    replica = membership.current()
    if replica is None:
        return payload.reshape(1, -1).copy()
    route = replica.route(describe(name, layer, group, payload.dtype, payload.size))
    message = np.concatenate([np.zeros(HEADER, payload.dtype), payload])
    gathered = np.empty((route.size, message.size), payload.dtype)
    replica.all_gather(route, message, gathered)
    return gathered[:, HEADER:]


def all_reduce(name: str, layer: str, group: str, payload: np.ndarray, reduction: str) -> np.ndarray:
    """The sum or mean of the payloads [n] of all replicas of the group: [n].

    Raises:
        CommunicationError: one line.
    """
    replica = membership.current()
    if replica is None:
        return payload.copy()
    route = replica.route(describe(name, layer, group, payload.dtype, payload.size))
    message = np.concatenate([np.zeros(HEADER, payload.dtype), payload])
    replica.all_reduce(route, message, message[:HEADER])
    return message[HEADER:] / (route.size if reduction == "mean" else 1)
