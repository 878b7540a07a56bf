"""ChannelStats: mean, biased variance and count of every channel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator


def reference(X: np.ndarray, *, layout: Layout) -> Arrays:
    """Compute mean [C], variance [C] and count, in float64: X as [outer, channels, inner]."""
    count = max(layout.count, 1)
    mean = X.sum(axis=(0, 2)) / count
    # Two passes: the textbook E[x^2] - E[x]^2 loses every digit at a large offset.
    var = np.square(X - layout.per_channel(mean)).sum(axis=(0, 2)) / count
    return mean, var, np.asarray(layout.count, np.int64)


def statements(cast_count: Callable[[str, str], str]) -> str:
    """Statements from X_planes to mean, var and count; `cast_count(result, count)` casts to their type.

    On the way, `deviations` are X_planes without a first mean, and `rest` is what that lacks to the mean: a large mean
    is rounded, and so are sums of large numbers.
    """
    return f"""
    count_1d = Mul (outer, inner)
    count = Squeeze (count_1d, zero)
    count_or_one = Max (count_1d, one)
    {cast_count("n", "count_or_one")}
    first_sum = ReduceSum <keepdims = 1> (X_planes, other_axes)
    first_planes = Div (first_sum, n)
    first_mean = Squeeze (first_planes, other_axes)
    deviations = Sub (X_planes, first_planes)
    rest_sum = ReduceSum <keepdims = 0> (deviations, other_axes)
    rest = Div (rest_sum, n)
    mean = Add (first_mean, rest)
    rest_square = Mul (rest, rest)
    squares = Mul (deviations, deviations)
    squares_sum = ReduceSum <keepdims = 0> (squares, other_axes)
    mean_square = Div (squares_sum, n)
    signed_var = Sub (mean_square, rest_square)
    var = Abs (signed_var)
"""


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + f"""
    own_planes = {bodies.reshape(opset)} (X, planes_shape)
    X_planes = Cast <to: int = @stash_type> (own_planes)
"""
        + statements(lambda result, count: f"{result} = Cast <to: int = @stash_type> ({count})")
    )


def gradient(g: Builder, node: Node, d_mean: Value, d_var: Value, _: None) -> Gradients:
    """X has d_mean / M + 2 (X - mean) d_var / M."""
    X, mean = node.inputs[0], node.outputs[0]
    return [derivatives.of_statistics(g, X, mean, d_mean, d_var, derivatives.axis_of(node))]


OPERATOR = Operator(
    name="ChannelStats",
    doc="""Mean, biased variance and element count of every channel of X, over all axes but the channels:

    mean = sum(X) / M,  var = sum((X - mean)^2) / M,  count = M

Sums are taken around a value near the mean, so a large offset costs no digits. An empty batch (M = 0) gives zeros.
Caffe2's op of this name gives sums. Mean and variance can be merged across replicas without loss of digits, sums
cannot.""",
    inputs=(formals.X,),
    outputs=(formals.MEAN, formals.VAR, formals.COUNT),
    attributes=(formals.AXIS, formals.STASH_TYPE),
    reference=reference,
    body=_body,
    gradient=gradient,
)
