"""The gradient of a convolution's weight, in the form that is fastest for its shape.

    dW[o, c, k] = sum over n and i of dY[n, o, i] X[n, c, stride i + dilation k - before]

is itself a convolution of X by dY, in which the batch takes the place of the channels, and stride and dilation are
exchanged. But the channels of X must stay separate, and the fastest way to do so depends on the shape:

- a window of one element: one product of matrices;
- a depthwise convolution (one channel per group): an op of ours, if such may be written (2 to 20 times as fast as what
  follows);
- one group and small windows: an op of ours, if such may be written and are faster (`direct_conv`);
- otherwise, without dilation along the last axis: the channels become innermost. The last axis then has W * C elements,
  of which those of one channel lie C apart, so the rank does not grow;
- otherwise: the channels become one more axis of space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnx_cbp.custom_ops.windows import MOST_AXES
from onnx_cbp.graph_passes.differentiating import direct_conv
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.windows import Windows

_END = np.iinfo(np.int64).max


def weight_gradient(g: Builder, X: Read, dY: Read, W: Read, windows: Windows, groups: int) -> ir.Value:
    """The gradient of W [O, C / groups, k...] for Y [N, O, ...] = Conv(X [N, C, ...], W).

    Raises:
        OnnxCbpError: the kernel has no fixed size.
    """
    if not all(isinstance(size, int) for size in g.shape(W)):  # W is itself a gradient, in a second derivative
        X, windows = _trimmed(g, X, dY, windows)
        return _one_axis_more(g, X, dY, W, windows, groups)
    shape = g.fixed(W, range(g.rank(W)))
    if all(k == 1 for k in windows.kernel) and not any(windows.pads):
        return _of_one_element(g, X, dY, windows, groups, shape)
    if shape[1] == 1 and groups > 1 and g.own_ops and _is_plain(windows):
        return direct_conv.by_own_op(g, "DepthwiseConvGradWeight", X, dY, windows, windows.pads)
    outputs, channels = shape[:2]
    if groups == 1 and direct_conv.fits(g, X, windows, channels, outputs) and direct_conv.pays(channels, outputs):
        return direct_conv.by_own_op(g, "ConvGradWeight", X, dY, windows, windows.pads)
    X, windows = _trimmed(g, X, dY, windows)
    if windows.dilations[-1] == 1:
        return _innermost(g, X, dY, windows, groups, shape)
    return _one_axis_more(g, X, dY, W, windows, groups)


def _of_one_element(g: Builder, X: Read, dY: Read, windows: Windows, groups: int, shape: Sequence[int]) -> ir.Value:
    """For each sample and group, the product of dY [O, L] and X [C, L] transposed; then the sum of the products.

    If dY and X have fewer elements than these products, they are first joined for one product over the whole batch: 3
    to 4 times as fast for hundreds of channels with 4 x 4 elements each.
    """
    if windows.loose or any(s != 1 for s in windows.strides) or any(windows.rest):
        last = [_END if c is None else (c - 1) * s + 1 for c, s in zip(windows.count, windows.strides, strict=True)]
        X = g.Slice(X, [0] * len(last), last, list(windows.axes), list(windows.strides))
    rows, columns = shape[0] // groups, shape[1]
    apart = [groups] if groups > 1 else []
    if windows.fixed:
        places = math.prod(c for c in windows.count if c is not None)
        if groups == 1 and places * (rows + columns) <= rows * columns:
            flat = (g.Transpose(g.Reshape(each, [0, 0, places]), perm=[1, 0, 2]) for each in (dY, X))
            joined = (g.Reshape(each, [size, -1]) for each, size in zip(flat, (rows, columns), strict=True))
            return g.Reshape(g.Gemm(*joined, transB=1), list(shape))
        left, right = (g.Reshape(each, [-1, *apart, size, places]) for each, size in ((dY, rows), (X, columns)))
    else:
        left, right = (g.Reshape(each, [0, *apart, size, -1]) for each, size in ((dY, rows), (X, columns)))
    order = [*range(1 + len(apart)), 2 + len(apart), 1 + len(apart)]
    products = g.MatMul(left, g.Transpose(right, perm=order))
    return g.Reshape(g.sum(products, [0], keepdims=0), list(shape))


def _is_plain(windows: Windows) -> bool:
    """Whether attributes and sizes alone tell how many windows there are: a ConvTranspose may have fewer."""
    whole = windows.loose or all(0 <= r < s for r, s in zip(windows.rest, windows.strides, strict=True))
    return whole and len(windows.size) <= MOST_AXES and min(windows.pads) >= 0


def _covered(g: Builder, dY: Read, windows: Windows) -> ir.Value:
    """How many elements lie from the first element of the first window to the last element of the last window."""
    more = [e - s for e, s in zip(windows.extent, windows.strides, strict=True)]
    return g.computed("Add", g.computed("Mul", g.sizes_of(dY, list(windows.axes)), list(windows.strides)), more)


def _trimmed(g: Builder, X: Read, dY: Read, windows: Windows) -> tuple[Read, Windows]:
    """X and its windows without what no window reaches, so that the convolution by dY has exactly the shape of W."""
    axes, nothing = list(windows.axes), (0,) * len(windows.axes)
    after = [] if windows.loose else [a - r for a, r in zip(windows.after, windows.rest, strict=True)]
    # Where every window lies in the padding before X, slicing X alone would leave nothing of it.
    if windows.loose or any(n is not None and n + a <= 0 for n, a in zip(windows.size, after, strict=True)):
        if any(windows.pads):
            X = g.Pad(X, [0, 0, *windows.before, 0, 0, *windows.after])
        X = g.Slice(X, [0] * len(axes), _covered(g, dY, windows), axes)
        return X, replace(windows, size=(None,) * len(axes), before=nothing, after=nothing)
    size = windows.size
    if any(a < 0 for a in after):
        size = tuple(None if n is None else n + min(a, 0) for n, a in zip(size, after, strict=True))
        X = g.Slice(X, [0] * len(axes), [_END if n is None else n for n in size], axes)
    return X, replace(windows, size=size, after=tuple(max(a, 0) for a in after))


def _innermost(g: Builder, X: Read, dY: Read, windows: Windows, groups: int, shape: Sequence[int]) -> ir.Value:
    """X as [1, groups * N, ..., W * C], dY as [O, N, ...]: the result is [1, O, k..., k * C]."""
    rank, channels = len(windows.size), shape[1]
    space = list(windows.axes)
    *outer, last = windows.size
    rows, sizes = g.sizes_of(X, space[:-1]), g.sizes_of(X, space)
    if groups == 1:
        data = g.Transpose(X, perm=[0, *space, 1])
    elif channels == 1:  # whole planes change places, which is faster than what follows
        data = g.Transpose(X, perm=[1, 0, *space])
    else:
        split = (None, groups, channels, *windows.size)
        apart = g.Reshape(X, g.joined([[-1, groups, channels], sizes]), shape=split)
        data = g.Transpose(apart, perm=[1, 0, *(axis + 1 for axis in space), 2])
    width = g.computed("Mul", g.sizes_of(X, space[-1:]), [channels])
    flat = (1, None, *outer, None if last is None else last * channels)
    data = g.Reshape(data, g.joined([[1, -1], rows, width]), shape=flat)
    scale = [*[1] * (rank - 1), channels]
    result = g.Conv(
        data,
        g.Transpose(dY, perm=[1, 0, *space]),
        group=groups,
        pads=[p * c for p, c in zip(windows.pads, scale * 2, strict=True)],
        dilations=[s * c for s, c in zip(windows.strides, scale, strict=True)],
        strides=list(windows.dilations),
    )
    apart = g.Reshape(result, [shape[0], *windows.kernel, channels])
    return g.Transpose(apart, perm=[0, rank + 1, *range(1, rank + 1)])


def _one_axis_more(g: Builder, X: Read, dY: Read, W: Read, windows: Windows, groups: int) -> ir.Value:
    """X as [1, groups * N, C, ...], dY as [O, N, 1, ...]: the result is [1, O, C, k...]."""
    space = list(windows.axes)
    if groups == 1:
        data = g.Unsqueeze(X, [0])
    else:
        (channels,) = g.fixed(W, [1])
        sizes = g.sizes_of(X, space)
        apart = g.joined([g.sizes_of(X, [0]), [groups, channels], sizes])
        grouped = g.Reshape(X, apart, shape=(g.shape(X)[0], groups, channels, *windows.size))
        data = g.Transpose(grouped, perm=[1, 0, 2, *(axis + 1 for axis in space)])
        images = g.computed("Mul", g.sizes_of(X, [0]), [groups])
        behind = g.joined([[1], images, [channels], sizes])
        data = g.Reshape(data, behind, shape=(1, None, channels, *windows.size))
    result = g.Conv(
        data,
        g.Unsqueeze(g.Transpose(dY, perm=[1, 0, *space]), [2]),
        group=groups,
        pads=[0, *windows.before, 0, *windows.after],
        dilations=[1, *windows.strides],
        strides=[1, *windows.dilations],
    )
    return g.reshape_like(result, W)
