"""DirectConv: a convolution of one group, computed without a copy of every window."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Operator
from onnx_cbp.custom_ops.ops.convolutions import shared
from onnx_cbp.custom_ops.windows import Windows


def reference(X: np.ndarray, W: np.ndarray, *, windows: Windows) -> Arrays:
    """Compute the convolution, in float64."""
    return (shared.convolution(X, W, windows),)


def _body(opset: int) -> str:
    """The product of W [O, C * k] and the elements that the windows see."""
    return (
        shared.columns(opset)
        + """
    W_shape = Shape (W)
    outputs = Slice (W_shape, zero, one)
"""
        + shared.product("W", opset)
    )


def gradient(g: Builder, node: Node, V: Value) -> Gradients:
    """The gradient of X is the transposed convolution of V by W; that of W is ConvGradWeight's."""
    X, W = node.inputs
    (dW,) = g.ours("ConvGradWeight", X, V, **shared.lists_of(node))
    return [shared.data_gradient(g, node, V, W), dW]


OPERATOR = Operator(
    name="DirectConv",
    doc="""Convolution of one group, as ONNX's Conv:

    Y[n, o, i] = sum over c and k of W[o, c, k] * X[n, c, strides * i + dilations * k - pads]

where X is 0 outside of its ends; there are one to three axes of space. For small kernels on a CPU it is up to twice as
fast as ONNX Runtime's Conv, which is a product of matrices. There is no CUDA kernel: cuDNN's are better. Sums of about
64 products are in the type of the data (float for 16 bits).""",
    inputs=(formals.X_OF_WINDOWS, formals.W),
    outputs=(formals.Y_OF_CONV,),
    attributes=(formals.KERNEL_SHAPE, formals.STRIDES, formals.PADS, formals.DILATIONS),
    reference=reference,
    body=_body,
    gradient=gradient,
)
