"""ChannelStatsMerge: merges the statistics of several replicas."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Operator, Tensor


def _reference(mean: np.ndarray, var: np.ndarray, count: np.ndarray) -> Arrays:
    total = int(count.sum())
    seen = count > 0  # the statistics of a replica without samples do not count, even if they are NaN
    weight = count[seen, None] / max(total, 1)
    merged = (weight * mean[seen]).sum(axis=0)
    merged_var = (weight * (var[seen] + np.square(mean[seen] - merged))).sum(axis=0)
    return merged, merged_var, np.asarray(total, np.int64)


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + f"""
    total = ReduceSum <keepdims = 1> (count_in, zero)
    count = Squeeze (total, zero)
    total_or_one = Max (total, one)
    {bodies.count_like("n", "total_or_one", "mean_in", opset)}
    {bodies.count_like("counts", "count_in", "mean_in", opset)}
    weight_row = Div (counts, n)
    weight = Unsqueeze (weight_row, one)
    nothing = Sub (zero, zero)
    seen_row = Greater (count_in, nothing)
    seen = Unsqueeze (seen_row, one)
    {bodies.count_like("zero_u", "nothing", "mean_in", opset)}
    means = Where (seen, mean_in, zero_u)
    vars = Where (seen, var_in, zero_u)
    weighted_means = Mul (weight, means)
    mean = ReduceSum <keepdims = 0> (weighted_means, zero)
    distance = Sub (means, mean)
    distance_square = Mul (distance, distance)
    spread = Add (vars, distance_square)
    weighted_spread = Mul (weight, spread)
    var = ReduceSum <keepdims = 0> (weighted_spread, zero)
"""
    )


def gradient(g: Builder, node: Node, d_mean: Value, d_var: Value, _: None) -> Gradients:
    """Part r with n_r of n elements: d_mean_r = n_r / n (d_mean + 2 (mean_r - mean) d_var), d_var_r = n_r / n d_var.

    All are zero where every part is empty.
    """
    means, _, counts = node.inputs
    mean = node.outputs[0]
    parts = g.Cast(g.Unsqueeze(counts, [1]), to=g.dtype(means).value)
    part = g.Div(parts, g.Cast(g.Max(node.outputs[2], 1), to=g.dtype(means).value))
    through_var = None if d_var is None else g.Mul(g.Mul(g.Sub(means, mean), 2.0), d_var)
    d_means = derivatives.added(g, d_mean, through_var)
    return [g.Mul(part, d_means), g.Mul(part, g.Sub(mean, mean) if d_var is None else d_var)]


OPERATOR = Operator(
    name="ChannelStatsMerge",
    doc="""Statistics of a batch from those of its parts, by Chan's parallel merge:

    count = sum(count_r),  mean = sum(count_r * mean_r) / count,
    var = sum(count_r * (var_r + (mean_r - mean)^2)) / count

Parts may differ in size, and some may be empty (count_r = 0: their mean and var are not read); all empty gives zeros.
(Chan, Golub, LeVeque 1979.)""",
    inputs=(
        Tensor("mean", "U", "RC", "Mean of every channel of every part."),
        Tensor("var", "U", "RC", "Biased variance of every channel of every part."),
        Tensor("count", "int64", "R", "Elements per channel of every part."),
    ),
    outputs=(formals.MEAN, formals.VAR, formals.COUNT),
    attributes=(),
    reference=_reference,
    body=_body,
    gradient=gradient,
)
