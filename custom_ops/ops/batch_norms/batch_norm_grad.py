"""BatchNormGrad: both backward steps in one op, for replicas that do not synchronise."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator
from onnx_cbp.custom_ops.ops.channels import channel_backprop, channel_backprop_stats


def reference(
    dY: np.ndarray, X: np.ndarray, scale: np.ndarray, mean: np.ndarray, inv_std: np.ndarray, *, layout: Layout
) -> Arrays:
    """Compute dX, scale_grad and bias_grad in float64: X and dY as [outer, channels, inner]."""
    scale_grad, bias_grad = channel_backprop_stats.reference(X, mean, inv_std, dY, layout=layout)
    count = np.asarray(layout.count, np.int64)
    (dX,) = channel_backprop.reference(dY, X, scale, mean, inv_std, scale_grad, bias_grad, count, layout=layout)
    return dX, scale_grad, bias_grad


def statements(opset: int) -> str:
    """Statements from X_planes and dY_planes to dX, scale_grad and bias_grad."""
    return (
        bodies.per_channel("mean")
        + channel_backprop_stats.STATEMENTS
        + """
    count_1d = Mul (outer, inner)
    count = Squeeze (count_1d, zero)
"""
        + channel_backprop.statements(opset)
    )


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + bodies.planes("dY", opset, like="scale")
        + statements(opset)
    )


def gradient(g: Builder, node: Node, V: Value, d_scale_grad: Value, d_bias_grad: Value) -> Gradients:
    """The gradient for each input; see `derivatives.of_both_steps`."""
    dY, *inputs = node.inputs
    by = derivatives.of_both_steps(g, node, dY, tuple(inputs), (V, d_scale_grad, d_bias_grad))
    return [by[name] for name in ("dY", "X", "scale", "mean", "inv_std")]


OPERATOR = Operator(
    name="BatchNormGrad",
    doc="""ChannelBackpropStats and ChannelBackprop in one, with the count of X itself:

    scale_grad = sum(dY * x_hat),  bias_grad = sum(dY),  x_hat = (X - mean) * inv_std
    dX = scale * inv_std * (dY - bias_grad / M - x_hat * scale_grad / M)""",
    inputs=(formals.DY, formals.X, formals.SCALE, formals.MEAN, formals.INV_STD),
    outputs=(formals.DX, formals.SCALE_GRAD, formals.BIAS_GRAD),
    attributes=(formals.AXIS,),
    reference=reference,
    body=_body,
    gradient=gradient,
)
