"""DirectConvExchanged: the gradient of the data of a convolution with strides of 1."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Operator
from onnx_cbp.custom_ops.ops.convolutions import shared
from onnx_cbp.custom_ops.windows import Windows


def reference(X: np.ndarray, W: np.ndarray, *, windows: Windows) -> Arrays:
    """Compute the convolution, in float64."""
    return (shared.convolution(X, shared.exchanged(W), windows),)


def _body(opset: int) -> str:
    """The product of W [O, C * k], exchanged, and the elements that the windows see."""
    reshape = bodies.reshape(opset)
    return (
        shared.columns(opset)
        + f"""
    W_shape = Shape (W)
    outputs = Slice (W_shape, one, two)
    flat_shape = Concat <axis = 0> (channels, outputs, of_window)
    flat = {reshape} (W, flat_shape)
    minus_one = Constant <value = int64[1] {{-1}}> ()
    before_all = Constant <value = int64[1] {{-9223372036854775807}}> ()
    in_reverse = Slice (flat, minus_one, before_all, two, minus_one)
    by_output = Transpose <perm = [1, 0, 2]> (in_reverse)
"""
        + shared.product("by_output", opset)
    )


def gradient(g: Builder, node: Node, V: Value) -> Gradients:
    """The gradients of a convolution by the exchanged W."""
    X, W = node.inputs
    (dW,) = g.ours("ConvGradWeight", X, V, **shared.lists_of(node))
    dX = shared.data_gradient(g, node, V, shared.exchanged_value(g, W))
    return [dX, shared.exchanged_value(g, dW)]


OPERATOR = Operator(
    name="DirectConvExchanged",
    doc="""Gradient of the data of a convolution of one group with the weight W [C, O, k...] and strides of 1:

    Y[n, o, i] = sum over c and k of W[c, o, kernel_shape - 1 - k] * X[n, c, strides * i + dilations * k - pads]

This is DirectConv by W with its first two axes exchanged and its windows reversed. X is the gradient of that
convolution's result, Y that of its data, and pads are dilations * (kernel_shape - 1) - its own pads. PyTorch calls it
conv2d_input, TensorFlow Conv2DBackpropInput. Sums are like those of DirectConv, and there is no CUDA kernel either.""",
    inputs=(formals.X_OF_WINDOWS, formals.EXCHANGED_W),
    outputs=(formals.Y_OF_CONV,),
    attributes=(formals.KERNEL_SHAPE, formals.STRIDES, formals.PADS, formals.DILATIONS),
    reference=reference,
    body=_body,
    gradient=gradient,
)
