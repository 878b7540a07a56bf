"""The ops as onnxruntime-extensions Python ops, for float and double.

With the native library they call its C++ kernels through plain C functions; without it they use numpy. An exception
that leaves a Python op ends the process (onnxruntime-extensions 0.15). So none leaves: the op returns NaN, logs the
error, and keeps it for `raise_python_op_error`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from onnx_cbp.custom_ops.library import call_native, find_library
from onnx_cbp.custom_ops.operator import DOMAIN, STATISTICS_TYPES, Arrays, Operator
from onnx_cbp.custom_ops.ops import OPERATORS
from onnx_cbp.custom_ops.own_extensions import OwnExtensions
from onnx_cbp.distributed import membership
from onnx_cbp.errors import OnnxCbpError

#: Python ops have no list attributes (onnxruntime-extensions 0.15).
WITHOUT_PYTHON_OPS = [o.name for o in OPERATORS.values() if any(isinstance(a.default, tuple) for a in o.attributes)]

_lock = threading.Lock()
_log = logging.getLogger("onnx_cbp")
#: The first error of each thread: if threads are replicas, each has its own errors.
_first_errors: dict[int, BaseException] = {}


def compute(operator: Operator, *inputs: np.ndarray, **attributes: Any) -> Arrays:
    """Compute an op on numpy arrays: by its C++ kernel if the library is there, otherwise by numpy in float64.

    Raises:
        ValueError: an input or attribute that does not fit, in one line.
    """
    if find_library() is not None:
        return call_native(operator, inputs, attributes)
    return operator.evaluate_rounded(*inputs, **attributes)


def raise_python_op_error() -> None:
    """Raise the first error of a Python op since the last call, if there was one.

    If threads are replicas (`onnx_cbp.distributed`), each gets only the errors of its own ops.

    ONNX Runtime does not learn of an error in a Python op: the session goes on with NaN. Call this after `run`.

    Raises:
        OnnxCbpError: the error, in one line.
        KeyboardInterrupt: the op was interrupted.
    """
    replicas = membership.replica_threads()
    own = threading.get_ident()
    found = [thread for thread in (own, *_first_errors) if thread in _first_errors and thread not in replicas - {own}]
    if not found:
        return
    error = _first_errors.pop(found[0])
    if not replicas:
        _first_errors.clear()  # later errors are consequences of the first
    if not isinstance(error, Exception):
        raise error
    raise OnnxCbpError(str(error) or type(error).__name__) from error


def _guarded(operator: Operator, *inputs: np.ndarray, **attributes: Any) -> Any:
    try:
        _check_stash_type(inputs, attributes)
        results = compute(operator, *inputs, **attributes)
    except BaseException as error:  # nothing may leave a Python op, not even KeyboardInterrupt
        results = _failed(operator, inputs[0].shape, error)
    return results if len(results) > 1 else results[0]


def _failed(operator: Operator, shape: tuple[int, ...], error: BaseException) -> Arrays:
    """Keep the error, and return NaN. No exception may leave this either, even if memory is still short."""
    with contextlib.suppress(BaseException):
        _first_errors.setdefault(threading.get_ident(), error)
        _log.error("%s; this Python op returns NaN", str(error) or type(error).__name__)
    with contextlib.suppress(BaseException):
        return _not_a_number(operator, shape)
    return _not_a_number(operator, (1,) * len(shape))  # needs only a few bytes


def _check_stash_type(inputs: tuple[np.ndarray, ...], attributes: dict[str, Any]) -> None:
    kind = STATISTICS_TYPES.get(attributes.get("stash_type", 0))
    if kind is not None and inputs[0].dtype != kind:
        raise ValueError(
            f"{DOMAIN}.ChannelStats: attribute 'stash_type' is {attributes['stash_type']} and X has type "
            f"{inputs[0].dtype}; the Python backend needs both alike: use the native one"
        )


def _not_a_number(operator: Operator, shape: tuple[int, ...]) -> Arrays:
    """NaN, in outputs of a shape that later ops accept; the shape itself does not matter."""
    channels = shape[-1:]
    shapes = {"X": shape, "C": channels, "RC": (1, *channels), "R": (1,), "": ()}
    return tuple(
        # Not 0: then NaN from this replica would not be read.
        np.full(shapes[t.shape], len(t.shape), np.int64)
        if t.type == "int64"
        else np.full(shapes[t.shape], np.nan, np.float32)
        for t in operator.outputs
    )


def python_library_path() -> str:
    """The library that gives a session the Python ops, overloaded by type; they are defined once per process.

    It is a copy of onnxruntime-extensions, so sessions that register onnxruntime-extensions itself do not change. If
    the process has Python ops of its own, ours join them, so that one registration brings all.
    """
    import onnxruntime_extensions
    from onnxruntime_extensions import Opdef

    with _lock:  # functools.cache alone would let two threads in
        own = None if any(_is_the_callers(op) for op in Opdef._odlist.values()) else _own_extensions()
        if own is not None:
            return own.path
        _define(_add_to_shared)
    return str(onnxruntime_extensions.get_library_path())


def _is_the_callers(op: Any) -> bool:
    """Whether a Python op comes from the user: it is not ours, and not from onnxruntime-extensions itself."""
    ours = str(op.op_type).startswith(f"{DOMAIN}::")
    return not ours and not str(getattr(op.body, "__module__", "")).startswith("onnxruntime_extensions")


@functools.cache
def _own_extensions() -> OwnExtensions | None:
    """The copy with our ops; None if it cannot be made."""
    try:
        extensions = OwnExtensions()
    except (ImportError, OSError) as error:
        _log.info("Python ops stand among those of onnxruntime-extensions: it cannot be loaded twice: %s", error)
        return None
    _define(extensions.add)
    return extensions


@functools.cache
def _define(add: Callable[[str, list[int], list[int], dict[str, int], Callable[..., Any]], object]) -> None:
    from onnxruntime_extensions import PyCustomOpDef

    numbers = {"float": PyCustomOpDef.dt_float, "double": PyCustomOpDef.dt_double}
    attribute_numbers = {
        int: PyCustomOpDef.dt_int64,
        float: PyCustomOpDef.dt_float,
        str: PyCustomOpDef.dt_string,
    }
    for operator in OPERATORS.values():
        if operator.name in WITHOUT_PYTHON_OPS:
            continue
        for types in _overloads(operator):
            declared = {name: numbers[kind] for name, kind in types.items()}
            declared["int64"] = PyCustomOpDef.dt_int64
            add(
                f"{DOMAIN}::{operator.name}",
                [declared[t.type] for t in operator.inputs],
                [declared[t.type] for t in operator.outputs],
                {a.name: attribute_numbers[type(a.default)] for a in operator.attributes},
                functools.partial(_guarded, operator),
            )


def _add_to_shared(
    op_type: str, inputs: list[int], outputs: list[int], attrs: dict[str, int], body: Callable[..., Any]
) -> object:
    from onnxruntime_extensions import Opdef

    return Opdef.create(body, op_type=op_type, inputs=inputs, outputs=outputs, attrs=attrs)


def _overloads(operator: Operator) -> list[dict[str, str]]:
    """The types T and U of each overload.

    ONNX Runtime distinguishes overloads by their inputs. If no input has type U (ChannelStats), U follows T.
    """
    input_types = {t.type for t in operator.inputs}
    kinds = ("float", "double")
    if "T" not in input_types:
        return [{"U": kind} for kind in kinds]
    if "U" not in input_types:
        return [{"T": kind, "U": kind} for kind in kinds]
    return [{"T": t, "U": u} for t in kinds for u in kinds]
