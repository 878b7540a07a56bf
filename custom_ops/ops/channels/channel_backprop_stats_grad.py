"""ChannelBackpropStatsGrad: the gradient of ChannelBackpropStats, for second derivatives."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, formals
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator, Tensor


def _reference(
    X: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    dY: np.ndarray,
    d_scale_grad: np.ndarray,
    d_bias_grad: np.ndarray,
    *,
    layout: Layout,
) -> Arrays:
    column = layout.per_channel
    centred = X - column(mean)
    d_x_hat = d_scale_grad * inv_std
    return (
        column(d_x_hat) * dY,
        -d_x_hat * dY.sum(axis=(0, 2)),
        d_scale_grad * (dY * centred).sum(axis=(0, 2)),
        column(d_x_hat) * centred + column(d_bias_grad),
    )


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="mean")
        + bodies.planes("dY", opset, like="mean")
        + """
    d_x_hat = Mul (d_scale_grad, inv_std)
"""
        + bodies.per_channel("mean", "d_x_hat", "d_bias_grad")
        + f"""
    dx_planes = Mul (d_x_hat_column, dY_planes)
    {bodies.restore("dX", "dx_planes", "X", opset)}
    gradient_sum = ReduceSum <keepdims = 0> (dY_planes, other_axes)
    through_mean = Mul (d_x_hat, gradient_sum)
    d_mean = Neg (through_mean)
    centred = Sub (X_planes, mean_column)
    products = Mul (dY_planes, centred)
    product_sum = ReduceSum <keepdims = 0> (products, other_axes)
    d_inv_std = Mul (d_scale_grad, product_sum)
    through_scale = Mul (d_x_hat_column, centred)
    d_dy_planes = Add (through_scale, d_bias_grad_column)
    {bodies.restore("d_dY", "d_dy_planes", "X", opset)}
"""
    )


OPERATOR = Operator(
    name="ChannelBackpropStatsGrad",
    doc="""Vector-Jacobian product of ChannelBackpropStats, with mean and inv_std as free variables:

    dX = d_scale_grad * inv_std * dY
    d_mean = -d_scale_grad * inv_std * sum(dY)
    d_inv_std = d_scale_grad * sum(dY * (X - mean))
    d_dY = d_scale_grad * inv_std * (X - mean) + d_bias_grad""",
    inputs=(
        formals.X,
        formals.MEAN,
        formals.INV_STD,
        formals.DY,
        Tensor("d_scale_grad", "U", "C", "Gradient with respect to scale_grad."),
        Tensor("d_bias_grad", "U", "C", "Gradient with respect to bias_grad."),
    ),
    outputs=(
        Tensor("dX", "T", "X", "Gradient with respect to X."),
        Tensor("d_mean", "U", "C", "Gradient with respect to mean."),
        Tensor("d_inv_std", "U", "C", "Gradient with respect to inv_std."),
        Tensor("d_dY", "T", "X", "Gradient with respect to dY."),
    ),
    attributes=(formals.AXIS,),
    reference=_reference,
    body=_body,
)
