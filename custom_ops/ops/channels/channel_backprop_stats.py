"""ChannelBackpropStats: the per-channel sums that the gradient of a normalisation needs (Caffe2's op)."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator


def reference(
    X: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    dY: np.ndarray,
    *,
    layout: Layout,
) -> Arrays:
    """Compute scale_grad [C] and bias_grad [C], in float64: X and dY as [outer, channels, inner]."""
    x_hat = (X - layout.per_channel(mean)) * layout.per_channel(inv_std)
    return (dY * x_hat).sum(axis=(0, 2)), dY.sum(axis=(0, 2))


#: From X_planes, dY_planes, inv_std and mean_column to scale_grad and bias_grad.
STATEMENTS = """
    centred = Sub (X_planes, mean_column)
    products = Mul (dY_planes, centred)
    product_sum = ReduceSum <keepdims = 0> (products, other_axes)
    scale_grad = Mul (product_sum, inv_std)
    bias_grad = ReduceSum <keepdims = 0> (dY_planes, other_axes)
"""


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="mean")
        + bodies.planes("dY", opset, like="mean")
        + bodies.per_channel("mean")
        + STATEMENTS
    )


def gradient(g: Builder, node: Node, d_scale_grad: Value, d_bias_grad: Value) -> Gradients:
    """By ChannelBackpropStatsGrad."""
    X, mean, inv_std, dY = node.inputs
    zeros = g.Sub(mean, mean)
    given = [zeros if each is None else each for each in (d_scale_grad, d_bias_grad)]
    return list(g.ours("ChannelBackpropStatsGrad", X, mean, inv_std, dY, *given, axis=derivatives.axis_of(node)))


OPERATOR = Operator(
    name="ChannelBackpropStats",
    doc="""Gradients of a normalisation's scale and bias, which are also the sums its input gradient needs:

    scale_grad = sum(dY * (X - mean) * inv_std),  bias_grad = sum(dY)

over all axes but the channels. Caffe2's op, inputs in its order.""",
    inputs=(formals.X, formals.MEAN, formals.INV_STD, formals.DY),
    outputs=(formals.SCALE_GRAD, formals.BIAS_GRAD),
    attributes=(formals.AXIS,),
    reference=reference,
    body=_body,
    gradient=gradient,
)
