"""Shared by convolutions: references, function bodies and gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from onnx_cbp.custom_ops import bodies
from onnx_cbp.custom_ops.derivatives import Builder, Node, Value
from onnx_cbp.custom_ops.windows import MOST_AXES, WINDOW_ATTRIBUTES, Windows


def seen(X: np.ndarray, windows: Windows) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """For each element of a window: its place, and the elements of X that it sees in all windows, [N, C, count...]."""
    axes = len(windows.size)
    around = list(zip(windows.pads[:axes], windows.pads[axes:], strict=True))
    padded = np.pad(X, [(0, 0), (0, 0), *around])
    for place in np.ndindex(*windows.kernel):
        slices = tuple(
            slice(k * d, k * d + (c - 1) * s + 1, s)
            for k, d, c, s in zip(place, windows.dilations, windows.count, windows.strides, strict=True)
        )
        yield place, padded[(slice(None), slice(None), *slices)]


def convolution(X: np.ndarray, W: np.ndarray, windows: Windows) -> np.ndarray:
    """Y[n, o, i] = sum over c and k of w times x, where w = W[o, c, k], and element k of window i sees x in X[n, c]."""
    Y = np.zeros(windows.result_shape)
    for place, data in seen(X, windows):
        Y += np.moveaxis(np.tensordot(W[(slice(None), slice(None), *place)], data, (1, 1)), 0, 1)
    return Y


def exchanged(W: np.ndarray) -> np.ndarray:
    """W with its first two axes exchanged, and reversed along all others."""
    return np.flip(W.swapaxes(0, 1), tuple(range(2, W.ndim)))


def _along(axis: int) -> str:
    """Where each element of each window along an axis lies in the padded data: `seen_{axis}` [k, count]."""
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
    """A vector with a number for each of three axes of space: missing axes are filled up in front."""
    return f"""
    {name}_more = Concat <axis = 0> ({filling}, {value})
    {name} = Slice ({name}_more, last_three, end)
"""


def columns(opset: int) -> str:
    """All elements of X that the windows see: `columns` [N, C * elements of a window, windows].

    Also defines the shapes `batch`, `channels`, `elements` (of a window, times C), `places` (windows), and `own_kernel`
    and `own_count`, which have a number for each axis of space.
    """
    reshape = bodies.reshape(opset)
    return (
        f"""
    zero = Constant <value = int64[1] {{0}}> ()
    one = Constant <value = int64[1] {{1}}> ()
    two = Constant <value = int64[1] {{2}}> ()
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
    batch = Slice (X_shape, zero, one)
    channels = Slice (X_shape, one, two)
    own_size = Slice (X_shape, two, end)
    steps = Sub (own_kernel, one)
    last_element = Mul (own_dilation, steps)
    with_before = Add (own_size, own_before)
    with_pads = Add (with_before, own_after)
    behind_first = Sub (with_pads, last_element)
    room = Sub (behind_first, one)
    more_windows = Div (room, own_stride)
    own_count = Add (more_windows, one)
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
    by_element = Transpose <perm = [0, 1, 2, 4, 6, 3, 5, 7]> (seen)
    of_window = ReduceProd <keepdims = 1> (own_kernel)
    places = ReduceProd <keepdims = 1> (own_count)
    elements = Mul (channels, of_window)
    columns_shape = Concat <axis = 0> (batch, elements, places)
    columns = {reshape} (by_element, columns_shape)
"""
    )


def product(weight: str, opset: int) -> str:
    """Y [N, O, own_count...]: the product of a weight, whose first axis has its `outputs`, and the `columns`."""
    reshape = bodies.reshape(opset)
    # Expanded by hand: before 1.20, ONNX Runtime's MatMul does not broadcast to a batch without samples.
    return f"""
    rows_shape = Concat <axis = 0> (outputs, elements)
    rows = {reshape} ({weight}, rows_shape)
    rows_of_each_shape = Concat <axis = 0> (batch, outputs, elements)
    rows_of_each = Expand (rows, rows_of_each_shape)
    products = MatMul (rows_of_each, columns)
    Y_shape = Concat <axis = 0> (batch, outputs, own_count)
    Y = {reshape} (products, Y_shape)
"""


def lists_of(node: Node) -> dict[str, tuple[int, ...]]:
    """The attributes of a node's windows that are not empty."""
    lists = {name: tuple(node.attributes[name].as_ints()) for name in WINDOW_ATTRIBUTES if name in node.attributes}
    return {name: numbers for name, numbers in lists.items() if numbers}


def data_gradient(g: Builder, node: Node, V: Value, W: Value, *, groups: int = 1) -> Value:
    """The gradient of the node's X from V, that of its convolution by W: the transposed convolution."""
    X, lists = node.inputs[0], lists_of(node)
    size, count = g.fixed(X, range(2, g.rank(X))), g.fixed(V, range(2, g.rank(V)))
    axes, kernel = len(size), lists["kernel_shape"]
    strides, dilations = (lists.get(name, (1,) * axes) for name in ("strides", "dilations"))
    pads = lists.get("pads", (0,) * 2 * axes)
    # The elements at the end of X where no window begins.
    rest = [
        size[i] + pads[i] + pads[axes + i] - ((count[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1)
        for i in range(axes)
    ]
    return g.ConvTranspose(
        V,
        W,
        group=groups,
        strides=list(strides),
        dilations=list(dilations),
        pads=list(pads),
        output_padding=rest,
        like=X,
    )


def exchanged_value(g: Builder, W: Value) -> Value:
    """Like `exchanged`, but as nodes."""
    first, second, *kernel = g.fixed(W, range(g.rank(W)))
    swapped = g.Transpose(W, perm=[1, 0, *range(2, 2 + len(kernel))])
    flat = g.Reshape(swapped, [second, first, math.prod(kernel)])
    return g.Reshape(g.Slice(flat, [-1], [np.iinfo(np.int64).min], [2], [-1]), [second, first, *kernel])
