"""ChannelBackprop: the input gradient of a normalisation over the batch."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator


def reference(
    dY: np.ndarray,
    X: np.ndarray,
    scale: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    scale_grad: np.ndarray,
    bias_grad: np.ndarray,
    count: np.ndarray,
    *,
    layout: Layout,
) -> Arrays:
    """Compute the input gradient, in float64: X and dY as [outer, channels, inner], the others [C]."""
    column = layout.per_channel
    m = max(int(count), 1)
    x_hat = (X - column(mean)) * column(inv_std)
    return (column(scale * inv_std) * (dY - column(bias_grad) / m - x_hat * column(scale_grad) / m),)


def statements(opset: int) -> str:
    """Statements from dY_planes, X_planes without the mean (centred), inv_std, the sums and count to dX."""
    return (
        f"""
    one_scalar = Squeeze (one, zero)
    count_or_one = Max (count, one_scalar)
    {bodies.count_like("m", "count_or_one", "scale", opset)}
    mean_bias_grad = Div (bias_grad, m)
    mean_scale_grad = Div (scale_grad, m)
    slope_of_var = Mul (mean_scale_grad, inv_std)
    coefficient = Mul (scale, inv_std)
"""
        + bodies.per_channel("mean_bias_grad", "slope_of_var", "coefficient")
        + f"""
    through_var = Mul (centred, slope_of_var_column)
    without_mean = Sub (dY_planes, mean_bias_grad_column)
    without_both = Sub (without_mean, through_var)
    dx_planes = Mul (without_both, coefficient_column)
    {bodies.restore("dX", "dx_planes", "X", opset)}
"""
    )


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + bodies.planes("dY", opset, like="scale")
        + bodies.per_channel("mean")
        + """
    centred = Sub (X_planes, mean_column)
"""
        + statements(opset)
    )


def gradient(g: Builder, node: Node, V: Value) -> Gradients:
    """The gradient for each input; see `derivatives.of_backprop`."""
    dY, X, scale, mean, inv_std, scale_grad, bias_grad, count = node.inputs
    M = g.Cast(g.Max(count, 1), to=g.dtype(scale).value)
    by = derivatives.of_backprop(g, V, dY, X, scale, mean, inv_std, scale_grad, bias_grad, M, derivatives.axis_of(node))
    return [by[name] for name in ("dY", "X", "scale", "mean", "inv_std", "scale_grad", "bias_grad")]


OPERATOR = Operator(
    name="ChannelBackprop",
    doc="""Gradient of the loss with respect to the input of a normalisation over the batch:

    dX = scale * inv_std * (dY - bias_grad / count - x_hat * scale_grad / count),  x_hat = (X - mean) * inv_std

with scale_grad and bias_grad from ChannelBackpropStats. `count` is the number of elements per channel that the
statistics were taken over; it exceeds X's own where they were synchronised across replicas.""",
    inputs=(
        formals.DY,
        formals.X,
        formals.SCALE,
        formals.MEAN,
        formals.INV_STD,
        formals.SCALE_GRAD,
        formals.BIAS_GRAD,
        formals.COUNT,
    ),
    outputs=(formals.DX,),
    attributes=(formals.AXIS,),
    reference=reference,
    body=_body,
    gradient=gradient,
)
