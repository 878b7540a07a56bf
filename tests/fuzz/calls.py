"""One op called with what it does not take: by every backend it answers, in one line or with a result."""

from __future__ import annotations

import ctypes
import logging
import math
import time
import warnings
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import onnx_cbp
from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.custom_ops.library import call_native, function_name, load_library
from onnx_cbp.custom_ops.operator import STRUCTURAL_ATTRIBUTES
from onnx_cbp.custom_ops.python_ops import WITHOUT_PYTHON_OPS
from support.ops import NUMBERS, Case, make_case, session

#: Elements of each array that a C function is given: more than the sizes that it is told ask for.
_ROOM = 1 << 15
#: The ways there are to call an op.
BACKENDS = ("c", "numpy", "native", "python")
_FLOATS = (0.0, 1e-5, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e300)
_INTS = (0, 1, -1, 2, -2, 3, 7, 11, 10, 16, 100, -(2**31), 2**31 - 1)
_TEXTS = ("world", "size:2", "", "sum", "mean", "no group", "x" * 5000)

Report = dict[str, Any]


def attempt(seed: int, stage: Callable[[str], None], skipped: Collection[str]) -> Report:
    """Call one op by every backend; what a report has, `fuzz.models.attempt` says."""
    logging.getLogger("onnx_cbp").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(seed)
    name = str(rng.choice(list(OPERATORS)))
    report: Report = {"mutations": [name], "calls": {}, "faults": [], "slow": [], "compared": 0}
    case = _case(name, rng)
    calls: dict[str, Callable[[], str]] = {
        "c": lambda: _in_c(name, np.random.default_rng(seed)),
        "numpy": lambda: _on_arrays(case),
        "native": lambda: _in_session(case, "native"),
        "python": lambda: _in_session(case, "python"),
    }
    for backend in BACKENDS:
        if backend == "python" and name in WITHOUT_PYTHON_OPS:
            continue
        if backend in skipped or (backend in ("c", "native") and load_library() is None):
            continue
        stage(backend)
        started = time.process_time()
        try:
            report["calls"][backend] = calls[backend]()
        except Exception as error:  # that is what is looked for
            report["calls"][backend] = "undocumented"
            report["faults"].append(f"{backend}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        if time.process_time() - started > 10:
            report["slow"].append(f"{backend}: {time.process_time() - started:.1f} s")
    return report


def _one_line(error: BaseException | str) -> str:
    text = str(error).strip()
    if not text or "\n" in text:
        raise AssertionError(f"not one line: {text!r:.200}")
    return "refused"


def _case(name: str, rng: np.random.Generator) -> Case:
    """An op with inputs of which some do not fit, and attributes of which some are none."""
    rank = int(rng.choice([2, 3, 4]))
    shape = tuple(int(size) for size in rng.choice([0, 1, 2, 3, 5], rank, p=[0.1, 0.3, 0.2, 0.2, 0.2]))
    data, statistics = str(rng.choice(["float32", "float64"])), str(rng.choice(["float32", "float64"]))
    case = make_case(
        name, shape, axis=int(rng.integers(rank)), data=data, statistics=statistics, seed=int(rng.integers(99))
    )
    feeds = case.feeds
    for wrong in rng.choice(list(feeds), int(rng.integers(0, 3))):
        value = feeds[str(wrong)]
        kind = int(rng.integers(6))
        if kind == 0:
            value = rng.normal(size=tuple(rng.integers(0, 4, int(rng.integers(5))))).astype(value.dtype)
        elif kind == 1:
            with np.errstate(all="ignore"):
                value = value.astype(rng.choice([np.float32, np.float64, np.int64, np.int32]))
        elif kind == 2:
            value = np.full_like(value, -1)
        elif kind == 3 and value.dtype.kind == "f":
            value = np.full_like(value, rng.choice(_FLOATS[4:]))
        elif kind == 4:
            value = value[..., None]
        elif value.ndim:
            value = value[:0]
        feeds[str(wrong)] = value
    attributes = dict(case.attributes)
    for wrong in rng.choice(list(attributes), int(rng.integers(0, 3))) if attributes else ():
        attributes[str(wrong)] = _attribute(case.attributes[str(wrong)], rng)
    return Case(case.operator, tuple(feeds.values()), attributes)


def _attribute(value: float | str | tuple[int, ...], rng: np.random.Generator) -> float | str | tuple[int, ...]:
    if isinstance(value, tuple):  # not empty: onnx could not tell its type
        return tuple(int(rng.choice(_INTS)) if rng.random() < 0.5 else 1 for _ in range(int(rng.integers(1, 7))))
    if isinstance(value, str):
        return str(rng.choice(_TEXTS))
    return int(rng.choice(_INTS)) if isinstance(value, int) else float(rng.choice(_FLOATS))


def _in_c(name: str, rng: np.random.Generator) -> str:
    """The plain C function with types and sizes that may be none, and arrays that are large enough."""
    operator, library = OPERATORS[name], load_library()
    function = getattr(library, function_name(operator))
    function.restype = ctypes.c_char_p
    kinds = {t.type for t in operator.inputs + operator.outputs}
    arguments: list[Any] = [
        ctypes.c_int(int(rng.choice(_INTS)) if rng.random() < 0.3 else int(rng.choice([1, 11])))
        for kind in ("T", "U")
        if kind in kinds
    ]
    sizes = (4 if operator.has_windows else 3) if operator.has_data else len(operator.inputs[0].shape)
    sizes += name == "AllGather"  # the replicas
    arguments += [
        ctypes.c_int64(int(rng.choice([-1, 0, -(2**62)])) if rng.random() < 0.2 else int(rng.integers(1, 8)))
        for _ in range(sizes)
    ]
    if operator.has_windows:
        arguments[-1] = ctypes.c_int64(int(rng.choice([1, 2, 3, 0, 4, -1], p=[0.3, 0.3, 0.3, 0.04, 0.03, 0.03])))
        lists = [  # of the size, the kernel, strides, pads and dilations
            rng.integers(1, most, 6) if rng.random() < 0.9 else rng.choice([1, 0, -1, 2**62, -(2**62)], 6)
            for most in (3, 3, 3, 2, 3)
        ]
        arguments += [(ctypes.c_int64 * 6)(*map(int, numbers)) for numbers in lists]
    for each in operator.attributes:
        if each.name in STRUCTURAL_ATTRIBUTES:
            continue
        value = each.default if rng.random() < 0.6 else _attribute(each.default, rng)
        kind = {int: ctypes.c_int, float: ctypes.c_double, str: ctypes.c_char_p}[type(each.default)]
        arguments.append(kind(value.encode() if isinstance(value, str) else value))
    arrays = [rng.integers(0, 5, _ROOM) * 1.0 for _ in operator.inputs]
    results = [np.zeros(_ROOM) for _ in operator.outputs]
    for index, t in enumerate(operator.inputs):
        if t.type == "int64":
            arrays[index] = rng.integers(-1, 9, _ROOM)
    error = function(*arguments, *(ctypes.c_void_p(array.ctypes.data) for array in (*arrays, *results)))
    return "returned" if error is None else _one_line(error.decode())


def _on_arrays(case: Case) -> str:
    """The op on numpy arrays."""
    try:
        with np.errstate(all="ignore"):
            want = case.operator.evaluate_rounded(*case.inputs, **case.attributes)
    except ValueError as error:
        return _one_line(error)
    if load_library() is not None and not case.operator.is_collective:
        for value, expected in zip(call_native(case.operator, case.inputs, case.attributes), want, strict=True):
            if value.shape != expected.shape or value.dtype != expected.dtype:
                raise AssertionError(f"{value.dtype}{value.shape} instead of {expected.dtype}{expected.shape}")
    return "returned"


def _in_session(case: Case, backend: str) -> str:
    """The op in ONNX Runtime, which is not told the shapes; errors are raised, of Python ops when asked for."""
    operator = case.operator
    node = helper.make_node(
        operator.name,
        [t.name for t in operator.inputs],
        [f"{t.name}_out" for t in operator.outputs],
        name="the_node",
        domain=DOMAIN,
        **case.attributes,
    )
    numbers = {**NUMBERS, "int32": TensorProto.INT32}
    inputs = [helper.make_tensor_value_info(k, numbers[v.dtype.name], None) for k, v in case.feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)],
        ir_version=8,
    )
    try:
        session(model, backend).run(None, case.feeds)
    except onnx_cbp.OnnxCbpError:
        raise
    except Exception as error:  # ONNX Runtime's own, which says ours
        return _one_line(" ".join(str(error).split()))
    finally:
        try:
            onnx_cbp.raise_python_op_error()
        except onnx_cbp.OnnxCbpError as error:
            _one_line(error)
    return "returned"
