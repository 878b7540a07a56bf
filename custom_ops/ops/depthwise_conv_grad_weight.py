"""DepthwiseConvGradWeight: the weight gradient of a convolution whose groups have one channel each."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Operator
from onnx_cbp.custom_ops.windows import MOST_AXES, Windows


def reference(X: np.ndarray, dY: np.ndarray, *, windows: Windows) -> Arrays:
    """Compute the gradient, in float64: X is [N, C, ...] and dY [N, C * m, ...]."""
    axes = len(windows.size)
    around = list(zip(windows.pads[:axes], windows.pads[axes:], strict=True))
    padded = np.repeat(np.pad(X, [(0, 0), (0, 0), *around]), windows.multiplier, axis=1)
    dW = np.empty(windows.weight_shape)
    for place in np.ndindex(*windows.kernel):
        seen = tuple(
            slice(k * d, k * d + (c - 1) * s + 1, s)
            for k, d, c, s in zip(place, windows.dilations, windows.count, windows.strides, strict=True)
        )
        dW[(slice(None), 0, *place)] = (padded[(slice(None), slice(None), *seen)] * dY).sum(
            axis=(0, *range(2, 2 + axes))
        )
    return (dW,)


def _along(axis: int) -> str:
    """What of the padded data each element of each window along an axis of space sees: `seen_{axis}` [k, count]."""
    return f"""
    place_{axis} = Constant <value = int64[1] {{{axis}}}> ()
    kernel_{axis} = Gather (kernel, place_{axis})
    stride_{axis} = Gather (stride, place_{axis})
    dilation_{axis} = Gather (dilation, place_{axis})
    count_{axis} = Gather (count, place_{axis})
    kernel_scalar_{axis} = Squeeze (kernel_{axis}, zero)
    count_scalar_{axis} = Squeeze (count_{axis}, zero)
    elements_{axis} = Range (zero_scalar, kernel_scalar_{axis}, one_scalar)
    windows_{axis} = Range (zero_scalar, count_scalar_{axis}, one_scalar)
    of_elements_{axis} = Mul (elements_{axis}, dilation_{axis})
    of_windows_{axis} = Mul (windows_{axis}, stride_{axis})
    column_{axis} = Unsqueeze (of_elements_{axis}, one)
    seen_{axis} = Add (column_{axis}, of_windows_{axis})
"""


def _three(name: str, value: str, filling: str) -> str:
    """A vector with a number for each axis of space, with others in front for those that three axes have more."""
    return f"""
    {name}_more = Concat <axis = 0> ({filling}, {value})
    {name} = Slice ({name}_more, last_three, end)
"""


def _body(opset: int) -> str:
    """As three axes of space: every window is gathered, and the products with dY are summed."""
    reshape = bodies.reshape(opset)
    return (
        f"""
    zero = Constant <value = int64[1] {{0}}> ()
    one = Constant <value = int64[1] {{1}}> ()
    two = Constant <value = int64[1] {{2}}> ()
    minus_one = Constant <value = int64[1] {{-1}}> ()
    zero_scalar = Constant <value = int64 {{0}}> ()
    one_scalar = Constant <value = int64 {{1}}> ()
    last_three = Constant <value = int64[1] {{-{MOST_AXES}}}> ()
    end = Constant <value = int64[1] {{2147483647}}> ()
    ones = Constant <value = int64[2] {{1, 1}}> ()
    zeros = Constant <value = int64[2] {{0, 0}}> ()
    own_kernel = Constant <value_ints: ints = @kernel_shape> ()
    own_stride = Constant <value_ints: ints = @strides> ()
    own_dilation = Constant <value_ints: ints = @dilations> ()
    own_pads = Constant <value_ints: ints = @pads> ()
    axes = Shape (own_kernel)
    own_before = Slice (own_pads, zero, axes)
    own_after = Slice (own_pads, axes, end)
    X_shape = Shape (X)
    dY_shape = Shape (dY)
    batch = Slice (X_shape, zero, one)
    channels = Slice (X_shape, one, two)
    results = Slice (dY_shape, one, two)
    own_size = Slice (X_shape, two, end)
    own_count = Slice (dY_shape, two, end)
"""
        + _three("kernel", "own_kernel", "ones")
        + _three("stride", "own_stride", "ones")
        + _three("dilation", "own_dilation", "ones")
        + _three("before", "own_before", "zeros")
        + _three("after", "own_after", "zeros")
        + _three("size", "own_size", "ones")
        + _three("count", "own_count", "ones")
        + "".join(_along(axis) for axis in range(MOST_AXES))
        + f"""
    space_shape = Concat <axis = 0> (batch, channels, size)
    space = {reshape} (X, space_shape)
    around = Concat <axis = 0> (zeros, before, zeros, after)
    padded = Pad (space, around)
    seen_across = Gather <axis = 4> (padded, seen_2)
    seen_down = Gather <axis = 3> (seen_across, seen_1)
    seen = Gather <axis = 2> (seen_down, seen_0)
    channels_or_one = Max (channels, one)
    multiplier = Div (results, channels_or_one)
    seen_shape = Concat <axis = 0> (batch, channels, one, kernel_0, count_0, kernel_1, count_1, kernel_2, count_2)
    seen_by_all = {reshape} (seen, seen_shape)
    factor_shape = Concat <axis = 0> (batch, channels, multiplier, one, count_0, one, count_1, one, count_2)
    factor = {reshape} (dY, factor_shape)
    products = Mul (seen_by_all, factor)
    summed = Constant <value = int64[4] {{0, 4, 6, 8}}> ()
    sums = ReduceSum <keepdims = 0> (products, summed)
    dW_shape = Concat <axis = 0> (results, one, own_kernel)
    dW = {reshape} (sums, dW_shape)
"""
    )


def gradient(g: Builder, node: Node, V: Value) -> Gradients:
    """The op is linear in X and in dY: dY has Conv(X, V), and X the transposed convolution of dY by V."""
    X, dY = node.inputs
    lists = {name: tuple(attribute.as_ints()) for name, attribute in node.attributes.items()}
    lists = {name: numbers for name, numbers in lists.items() if numbers}
    channels, *size = g.fixed(X, range(1, g.rank(X)))
    count, axes = g.fixed(dY, range(2, g.rank(dY))), len(size)
    strides, dilations = (lists.get(name, (1,) * axes) for name in ("strides", "dilations"))
    pads, kernel = lists.get("pads", (0,) * 2 * axes), lists["kernel_shape"]
    # What is left at the end of X, where no window begins.
    rest = [
        size[i] + pads[i] + pads[axes + i] - ((count[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1)
        for i in range(axes)
    ]
    to_dY = g.Conv(X, V, group=channels, like=dY, **lists)
    to_X = g.ConvTranspose(
        dY,
        V,
        group=channels,
        strides=list(strides),
        dilations=list(dilations),
        pads=list(pads),
        output_padding=rest,
        like=X,
    )
    return [to_X, to_dY]


OPERATOR = Operator(
    name="DepthwiseConvGradWeight",
    doc="""Gradient of the loss with respect to the weight W [C * m, 1, k...] of a depthwise convolution

    Y = Conv(X, W; group = C), with m results of each channel, for the gradient dY of Y:

    dW[c * m + j, 0, k] = sum over n and i of dY[n, c * m + j, i] * X[n, c, strides * i + dilations * k - pads]

where X is 0 beyond its ends. Attributes are those of the convolution; there are one to three axes of space. PyTorch
calls it conv_depthwise2d_grad_weight, TensorFlow DepthwiseConv2dNativeBackpropFilter. Sums go on in double after every
64 products in the type of the elements (float where these have 16 bits).""",
    inputs=(formals.X_OF_WINDOWS, formals.DY_OF_WINDOWS),
    outputs=(formals.DW,),
    attributes=(formals.KERNEL_SHAPE, formals.STRIDES, formals.PADS, formals.DILATIONS),
    reference=reference,
    body=_body,
    gradient=gradient,
)
