"""RunningStats: one step of the exponential moving average that inference uses."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Operator, Tensor


def reference(
    running: np.ndarray,
    batch: np.ndarray,
    count: np.ndarray,
    *,
    momentum: float,
    unbiased: int,
) -> Arrays:
    """Compute the running value [C] after a step, in float64."""
    m = int(count)
    if m == 0:
        return (running,)
    factor = m / max(m - 1, 1) if unbiased else 1.0
    return (running * momentum + batch * factor * (1.0 - momentum),)


def statements(opset: int, batch: str, unbiased: int | None, like: str) -> str:
    """Statements from running_{batch}, the batch's value and count to updated_{batch}.

    `unbiased` is the attribute's value; None where the body reads it.
    """
    observed = batch if unbiased == 0 else f"{batch}_observed"
    return f"""
    {bodies.count_like(f"{batch}_unit", "one_count", like, opset)}
    {"" if unbiased == 0 else _observed(opset, batch, unbiased, like)}
    {batch}_momentum_float = Constant <value_float: float = @momentum> ()
    {bodies.cast_like(f"{batch}_momentum", f"{batch}_momentum_float", like, opset)}
    {batch}_remainder = Sub ({batch}_unit, {batch}_momentum)
    {batch}_new_part = Mul ({observed}, {batch}_remainder)
    {batch}_old_part = Mul (running_{batch}, {batch}_momentum)
    {batch}_moved = Add ({batch}_old_part, {batch}_new_part)
    {batch}_empty = Less (count, one_count)
    updated_{batch} = Where ({batch}_empty, running_{batch}, {batch}_moved)
"""


def _observed(opset: int, batch: str, unbiased: int | None, like: str) -> str:
    """Statements to {batch}_observed: the batch's value, times count / (count - 1) if unbiased."""
    factor = f"{batch}_bessel"
    choice = ""
    if unbiased is None:
        factor = f"{batch}_factor"
        choice = f"""
    {batch}_unbiased_int = Constant <value_int: int = @unbiased> ()
    {batch}_is_unbiased = Cast <to = 9> ({batch}_unbiased_int)
    {factor} = Where ({batch}_is_unbiased, {batch}_bessel, {batch}_unit)
"""
    return f"""
    {batch}_less_one = Sub (count, one_count)
    {batch}_degrees = Max ({batch}_less_one, one_count)
    {bodies.count_like(f"{batch}_m", "count", like, opset)}
    {bodies.count_like(f"{batch}_d", f"{batch}_degrees", like, opset)}
    {batch}_bessel = Div ({batch}_m, {batch}_d)
    {choice}
    {batch}_observed = Mul ({batch}, {factor})
"""


def _body(opset: int, unbiased: int | None = None) -> str:
    return (
        bodies.CONSTANTS
        + """
    running_batch = Identity (running)
"""
        + statements(opset, "batch", unbiased, like="running")
        + """
    updated = Identity (updated_batch)
"""
    )


def gradient(g: Builder, node: Node, d_updated: Value) -> Gradients:
    """Running has momentum d_updated; batch has (1 - momentum) d_updated, times count / (count - 1) if unbiased.

    Where nothing was observed, running has d_updated and batch zeros.
    """
    momentum, unbiased = node.attributes["momentum"].as_float(), node.attributes["unbiased"].as_int()
    d_running, d_batch = g.Mul(d_updated, momentum), g.Mul(d_updated, 1 - momentum)
    if unbiased:
        count = g.Cast(node.inputs[2], to=g.dtype(d_updated).value)
        d_batch = g.Mul(d_batch, g.Div(count, g.Max(g.Sub(count, 1.0), 1.0)))
    observed = g.Greater(node.inputs[2], 0)
    return [g.Where(observed, d_running, d_updated), g.Where(observed, d_batch, g.scalar(0, d_updated))]


OPERATOR = Operator(
    name="RunningStats",
    doc="""One step of a running mean or variance:

    updated = running * momentum + batch * (1 - momentum)

`momentum` is what ONNX calls so: the part that is kept (PyTorch's is the part that is replaced). With unbiased = 1 the
batch value is multiplied by count / (count - 1), as PyTorch does for the variance; a single element has no unbiased
variance and is taken as it is. Nothing observed (count = 0) leaves the running value as it was. Pure: it never writes
its input.""",
    inputs=(
        Tensor("running", "U", "C", "Running value before the step."),
        Tensor("batch", "U", "C", "Mean or biased variance of the batch."),
        formals.COUNT,
    ),
    outputs=(Tensor("updated", "U", "C", "Running value after the step."),),
    attributes=(
        formals.MOMENTUM,
        formals.UNBIASED,
    ),
    reference=reference,
    body=_body,
    choices=("unbiased",),
    gradient=gradient,
)
