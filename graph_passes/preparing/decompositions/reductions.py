"""Reductions, and sums of several values, in sums and elementary ops."""

from __future__ import annotations

import functools

import onnx_ir as ir

from onnx_cbp.graph_passes.core.formula import Formula


def largest(f: Formula) -> ir.Value | None:
    """The largest element, as the mean of all equal ones: they share the gradient evenly."""
    return _extreme(f, "ReduceMax")


def smallest(f: Formula) -> ir.Value | None:
    """The smallest element, likewise."""
    return _extreme(f, "ReduceMin")


def global_max_pool(f: Formula) -> ir.Value | None:
    """The largest element of each plane."""
    x = f.input(0)
    shape = f.shape(x)
    return None if shape is None else _mean_of_equals(f, "ReduceMax", x, range(2, len(shape)), keepdims=True)


def l1(f: Formula) -> ir.Value | None:
    """The sum of magnitudes."""
    return _sum_of(f, f.op("Abs", f.input(0)))


def sum_of_squares(f: Formula) -> ir.Value | None:
    """The sum of squares; the builder cannot multiply a parameter by itself."""
    x = f.input(0)
    return _sum_of(f, f.op("Pow", x, 2.0) if x.producer() is None else f.op("Mul", x, x))


def log_of_sum(f: Formula) -> ir.Value | None:
    """The logarithm of the sum."""
    total = _sum_of(f, f.input(0))
    return None if total is None else f.op("Log", total)


def without_keeping(f: Formula) -> ir.Value | None:
    """A reduction that keeps the reduced axes, followed by a node that removes them."""
    axes = _axes(f)
    if f.number("keepdims", 1) or axes is None:
        return None
    kept = f.reduce(f.node.op_type, f.input(0), axes)
    # The gradient of a single number may arrive with one axis: that of a Reshape accepts this, that of a Squeeze adds
    # axes.
    return f.squeeze(kept, axes) if axes else f.op("Reshape", kept, f.sizes([]))


def total(f: Formula) -> ir.Value:
    """The sum of all inputs, one after another."""
    inputs = [value for value in f.node.inputs if value is not None]
    if len(inputs) == 1:
        return f.op("Identity", inputs[0])
    return functools.reduce(lambda left, right: f.op("Add", left, right), inputs)


def mean(f: Formula) -> ir.Value:
    """The sum of all inputs, divided by their number."""
    return f.op("Div", total(f), float(len(f.node.inputs)))


def _axes(f: Formula) -> list[int] | None:
    """The axes of a reduction, [] for all; None if they are not known, or if none is reduced."""
    axes = f.integers("axes")
    if len(f.node.inputs) > 1 and f.node.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(f.node.inputs[1])
        if tensor is None:
            return None
        axes = [int(axis) for axis in tensor.numpy().reshape(-1)]
    if axes:
        return axes
    return None if f.number("noop_with_empty_axes", 0) else []


def _sum_of(f: Formula, values: ir.Value) -> ir.Value | None:
    axes = _axes(f)
    return None if axes is None else f.reduce("ReduceSum", values, axes, keepdims=bool(f.number("keepdims", 1)))


def _extreme(f: Formula, op_type: str) -> ir.Value | None:
    axes = _axes(f)
    if axes is None:
        return None
    return _mean_of_equals(f, op_type, f.input(0), axes, keepdims=bool(f.number("keepdims", 1)))


def _mean_of_equals(f: Formula, op_type: str, x: ir.Value, axes: range | list[int], *, keepdims: bool) -> ir.Value:
    extreme = f.reduce(op_type, x, list(axes))  # only used in comparisons: its gradient is never needed
    equal = f.op("Equal", x, extreme)
    dtype = ir.DataType.FLOAT if f.dtype is None else f.dtype
    number = f.reduce("ReduceSum", f.op("Cast", equal, to=dtype.value), list(axes), keepdims=keepdims)
    return f.op("Div", f.reduce("ReduceSum", f.op("Where", equal, x, 0.0), list(axes), keepdims=keepdims), number)


RULES = {
    "GlobalMaxPool": global_max_pool,
    "Mean": mean,
    "ReduceL1": l1,
    "ReduceL2": without_keeping,
    "ReduceLogSum": log_of_sum,
    "ReduceLogSumExp": without_keeping,
    "ReduceMax": largest,
    "ReduceMin": smallest,
    "ReduceSumSquare": sum_of_squares,
    "Sum": total,
}
