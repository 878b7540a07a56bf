"""ConvGradWeight: the gradient of the weight of a convolution with one group."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Operator
from onnx_cbp.custom_ops.ops.convolutions import shared
from onnx_cbp.custom_ops.windows import Windows


def reference(X: np.ndarray, dY: np.ndarray, *, windows: Windows) -> Arrays:
    """Compute the gradient, in float64."""
    dW = np.empty(windows.weight_shape)
    over = [0, *range(2, dY.ndim)]
    for place, data in shared.seen(X, windows):
        dW[(slice(None), slice(None), *place)] = np.tensordot(dY, data, (over, over))
    return (dW,)


def _body(opset: int) -> str:
    """The product of dY [O, N * windows] and the elements that the windows see."""
    reshape = bodies.reshape(opset)
    return (
        shared.columns(opset)
        + f"""
    dY_shape = Shape (dY)
    outputs = Slice (dY_shape, one, two)
    flat_shape = Concat <axis = 0> (batch, outputs, places)
    flat = {reshape} (dY, flat_shape)
    by_output = Transpose <perm = [1, 0, 2]> (flat)
    all_places = Mul (batch, places)
    rows_shape = Concat <axis = 0> (outputs, all_places)
    rows = {reshape} (by_output, rows_shape)
    by_place = Transpose <perm = [0, 2, 1]> (columns)
    factors_shape = Concat <axis = 0> (all_places, elements)
    factors = {reshape} (by_place, factors_shape)
    products = MatMul (rows, factors)
    dW_shape = Concat <axis = 0> (outputs, channels, own_kernel)
    dW = {reshape} (products, dW_shape)
"""
    )


def gradient(g: Builder, node: Node, V: Value) -> Gradients:
    """The op is linear in X and dY: dY has Conv(X, V) as its gradient, X the transposed convolution of dY by V."""
    X, dY = node.inputs
    to_dY = g.Conv(X, V, like=dY, **shared.lists_of(node))
    return [shared.data_gradient(g, node, dY, V), to_dY]


OPERATOR = Operator(
    name="ConvGradWeight",
    doc="""Gradient with respect to the weight W [O, C, k...] of Y = Conv(X, W), a convolution of one group:

    dW[o, c, k] = sum over n and i of dY[n, o, i] * X[n, c, strides * i + dilations * k - pads]

where X is 0 outside of its ends. Attributes are those of the convolution; there are one to three axes of space. PyTorch
calls it conv2d_weight, TensorFlow Conv2DBackpropFilter. Sums of 128 products, or of a row, are in the type of the data
(float for 16 bits), and sums over parts of the batch in double. There is no CUDA kernel: cuDNN's are better.""",
    inputs=(formals.X_OF_WINDOWS, formals.DY_OF_CONV),
    outputs=(formals.DW_OF_CONV,),
    attributes=(formals.KERNEL_SHAPE, formals.STRIDES, formals.PADS, formals.DILATIONS),
    reference=reference,
    body=_body,
    gradient=gradient,
)
