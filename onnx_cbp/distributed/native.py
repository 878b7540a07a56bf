"""Connects the native library with the communicator: plain C functions (c_api.h) that call Python.

ctypes takes the interpreter lock for each call, and releases it afterwards; code that waits inside releases it too.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from onnx_cbp.custom_ops.library import load_library
from onnx_cbp.custom_ops.operator import STATISTICS_TYPES
from onnx_cbp.distributed import membership
from onnx_cbp.distributed.replica import HEADER, Replica, Route, describe

_FAILED = -1
#: Views over larger messages are not kept, since their memory is freed after each run.
_LARGEST_KEPT = 1 << 20


class _Collective(ctypes.Structure):
    """onnx_cbp_collective."""

    _fields_ = (
        ("id", ctypes.c_int64),
        ("name", ctypes.c_char_p),
        ("layer", ctypes.c_char_p),
        ("group", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("elements", ctypes.c_int64),
    )


# Pointers are numbers, which ctypes handles fastest.
_Pointer = ctypes.c_void_p
_Replicas = ctypes.CFUNCTYPE(ctypes.c_int64, _Pointer, ctypes.c_char_p, _Pointer, ctypes.c_size_t)
_AllGather = ctypes.CFUNCTYPE(
    ctypes.c_int64, _Pointer, ctypes.c_int64, _Pointer, _Pointer, _Pointer, _Pointer, ctypes.c_size_t
)
_AllReduce = ctypes.CFUNCTYPE(ctypes.c_int64, _Pointer, ctypes.c_int64, _Pointer, _Pointer, _Pointer, ctypes.c_size_t)


class _Communicator(ctypes.Structure):
    """onnx_cbp_communicator."""

    _fields_ = (
        ("user", _Pointer),
        ("thread", _Pointer),
        ("replicas", _Replicas),
        ("all_gather", _AllGather),
        ("all_reduce", _AllReduce),
    )


def set_communicator(on: bool) -> None:
    """Connect the native library's collectives with the current replica, or let them run alone."""
    library = load_library()
    if library is not None:
        library.onnx_cbp_set_communicator(ctypes.byref(_functions()) if on else None)


@functools.cache
def _functions() -> _Communicator:
    """The functions, made once: the library may keep them as long as the process lives."""
    # Returns null on threads that Python does not know, such as those of ONNX Runtime's pools.
    thread = ctypes.cast(ctypes.pythonapi.PyGILState_GetThisThreadState, _Pointer)
    return _Communicator(None, thread, _Replicas(_replicas), _AllGather(_all_gather), _AllReduce(_all_reduce))


def _replicas(_user: int | None, group: bytes, error: int, capacity: int) -> int:
    try:
        replica = membership.current()
        return 1 if replica is None else replica.replicas(group.decode())
    except BaseException as failure:  # nothing may leave a callback
        return _tell(failure, error, capacity)


def _all_gather(
    _user: int | None, number: int, collective: int, message: int, gathered: int, error: int, capacity: int
) -> int:
    try:
        replica = membership.current()
        if replica is None:
            told = _Collective.from_address(collective)
            ctypes.memmove(gathered, message, (HEADER + told.elements) * ctypes.sizeof(ctypes.c_double))
            return 1
        route = replica.by_id.get(number) or _route(replica, number, collective)
        own, _ = route.views.get(message) or _view(route, message)
        every = route.gathered_views.get(gathered)
        replica.all_gather(route, own, _gathered_view(route, gathered) if every is None else every)
        return route.size
    except BaseException as failure:
        return _tell(failure, error, capacity)


def _all_reduce(_user: int | None, number: int, collective: int, message: int, error: int, capacity: int) -> int:
    try:
        replica = membership.current()
        if replica is None:
            return 1
        route = replica.by_id.get(number) or _route(replica, number, collective)
        own, header = route.views.get(message) or _view(route, message)
        replica.all_reduce(route, own, header)
        return route.size
    except BaseException as failure:
        return _tell(failure, error, capacity)


def _route(replica: Replica, number: int, collective: int) -> Route:
    told = _Collective.from_address(collective)
    dtype = np.dtype(STATISTICS_TYPES[told.type])
    route = replica.route(describe(told.name.decode(), told.layer.decode(), told.group.decode(), dtype, told.elements))
    if number >= 0:
        replica.by_id[number] = route
    return route


def _view(route: Route, address: int) -> tuple[np.ndarray, np.ndarray]:
    array = _array(route, address, HEADER + route.collective.elements)
    views = array, array[:HEADER]
    if array.nbytes <= _LARGEST_KEPT:
        route.views[address] = views
    return views


def _gathered_view(route: Route, address: int) -> np.ndarray:
    elements = HEADER + route.collective.elements
    array = _array(route, address, route.size * elements).reshape(route.size, elements)
    if array.nbytes <= _LARGEST_KEPT:
        route.gathered_views[address] = array
    return array


def _array(route: Route, address: int, elements: int) -> np.ndarray:
    kind: Any = ctypes.c_double if route.collective.dtype == np.float64 else ctypes.c_float
    return np.frombuffer((kind * elements).from_address(address), route.collective.dtype)


def _tell(failure: BaseException, error: int, capacity: int) -> int:
    text = " ".join(str(failure).split()) or type(failure).__name__
    data = text.encode()[: capacity - 1] + b"\0"
    ctypes.memmove(error, data, len(data))
    return _FAILED
