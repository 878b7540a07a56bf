"""RunningStats: one step of the exponential moving average that inference uses."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, formals
from onnx_cbp.custom_ops.operator import Arrays, Attribute, Operator, Tensor


def _reference(
    running: np.ndarray,
    batch: np.ndarray,
    count: np.ndarray,
    *,
    momentum: float,
    unbiased: int,
) -> Arrays:
    m = int(count)
    if m == 0:
        return (running,)
    factor = m / max(m - 1, 1) if unbiased else 1.0
    return (running * momentum + batch * factor * (1.0 - momentum),)


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + f"""
    one_scalar = Squeeze (one, zero)
    zero_scalar = Sub (one_scalar, one_scalar)
    empty = Equal (count, zero_scalar)
    less_one = Sub (count, one_scalar)
    degrees = Max (less_one, one_scalar)
    {bodies.count_like("m", "count", "running", opset)}
    {bodies.count_like("d", "degrees", "running", opset)}
    bessel = Div (m, d)
    {bodies.count_like("unit", "one_scalar", "running", opset)}
    unbiased_int = Constant <value_int: int = @unbiased> ()
    is_unbiased = Cast <to = 9> (unbiased_int)
    factor = Where (is_unbiased, bessel, unit)
    momentum_float = Constant <value_float: float = @momentum> ()
    {bodies.cast_like("momentum_u", "momentum_float", "running", opset)}
    remainder = Sub (unit, momentum_u)
    observed = Mul (batch, factor)
    new_part = Mul (observed, remainder)
    old_part = Mul (running, momentum_u)
    moved = Add (old_part, new_part)
    updated = Where (empty, running, moved)
"""
    )


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
        Attribute("momentum", 0.9, "Part of the running value that is kept."),
        Attribute("unbiased", 0, "1: `batch` is a variance to be made unbiased."),
    ),
    reference=_reference,
    body=_body,
)
