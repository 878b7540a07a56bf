"""DepthwiseConvGradWeight: the gradient of the weight of a convolution whose groups have one channel each."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Operator
from onnx_cbp.custom_ops.ops.convolutions import shared
from onnx_cbp.custom_ops.windows import Windows


def reference(X: np.ndarray, dY: np.ndarray, *, windows: Windows) -> Arrays:
    """Compute the gradient, in float64: X is [N, C, ...] and dY [N, C * m, ...]."""
    dW = np.empty(windows.weight_shape)
    over = (0, *range(2, dY.ndim))
    for place, data in shared.seen(X, windows):
        dW[(slice(None), 0, *place)] = (np.repeat(data, windows.multiplier, axis=1) * dY).sum(axis=over)
    return (dW,)


def _body(opset: int) -> str:
    """The products of dY and the elements that the windows see, summed."""
    reshape = bodies.reshape(opset)
    return (
        shared.columns(opset)
        + f"""
    dY_shape = Shape (dY)
    results = Slice (dY_shape, one, two)
    channels_or_one = Max (channels, one)
    multiplier = Div (results, channels_or_one)
    seen_shape = Concat <axis = 0> (batch, channels, one, of_window, places)
    seen_by_all = {reshape} (columns, seen_shape)
    factor_shape = Concat <axis = 0> (batch, channels, multiplier, one, places)
    factor = {reshape} (dY, factor_shape)
    products = Mul (seen_by_all, factor)
    summed = Constant <value = int64[2] {{0, 4}}> ()
    sums = ReduceSum <keepdims = 0> (products, summed)
    dW_shape = Concat <axis = 0> (results, one, own_kernel)
    dW = {reshape} (sums, dW_shape)
"""
    )


def gradient(g: Builder, node: Node, V: Value) -> Gradients:
    """The op is linear in X and dY: dY has Conv(X, V) as its gradient, X the transposed convolution of dY by V."""
    X, dY = node.inputs
    (channels,) = g.fixed(X, [1])
    to_dY = g.Conv(X, V, group=channels, like=dY, **shared.lists_of(node))
    return [shared.data_gradient(g, node, dY, V, groups=channels), to_dY]


OPERATOR = Operator(
    name="DepthwiseConvGradWeight",
    doc="""Gradient with respect to the weight W [C * m, 1, k...] of a depthwise convolution with m outputs per channel:

    dW[c * m + j, 0, k] = sum over n and i of dY[n, c * m + j, i] * X[n, c, strides * i + dilations * k - pads]

where X is 0 outside of its ends. Attributes are those of the convolution; there are one to three axes of space. PyTorch
calls it conv_depthwise2d_grad_weight, TensorFlow DepthwiseConv2dNativeBackpropFilter. Sums of 64 products are in the
type of the data (float for 16 bits), and these sums are added in double.""",
    inputs=(formals.X_OF_WINDOWS, formals.DY_OF_WINDOWS),
    outputs=(formals.DW,),
    attributes=(formals.KERNEL_SHAPE, formals.STRIDES, formals.PADS, formals.DILATIONS),
    reference=reference,
    body=_body,
    gradient=gradient,
)
