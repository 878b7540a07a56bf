"""Gradient rules of poolings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.windows import kernel_of
from onnx_cbp.graph_passes.dialects._reading import attribute
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.data_gradients import transposed
from onnx_cbp.graph_passes.differentiating.registry import InputGradient, rule
from onnx_cbp.graph_passes.differentiating.windows import Windows, windows


@rule("MaxPool")
def max_pool(g: Builder, node: ir.Node, dY: ir.Value, _: ir.Value | None = None) -> list[InputGradient]:
    """MaxPool: dY goes to the elements that were chosen. Indices has their places, counted through the whole of X."""
    X = node.inputs[0]
    if attribute(node, "storage_order", 0):
        raise g.refuse("storage_order = 1 counts Indices by columns: leave it out")
    seen = _windows(g, node)
    indices = g.output(node, 1, ir.DataType.INT64, g.shape(node.outputs[0]))
    if not seen.overlap or g.can_scatter_add():
        return [_put(g, dY, indices, X, add=seen.overlap)]
    # For opsets whose ScatterElements cannot add: some windows at a time, so far apart that no two share an element.
    apart = [math.ceil(e / s) for e, s in zip(seen.extent, seen.strides, strict=True)]
    axes, parts = list(seen.axes), []
    for first in itertools.product(*map(range, apart)):
        if all(c is None or f < c for f, c in zip(first, seen.count, strict=True)):
            ends = g.sizes_of(dY, axes)
            part, places = (g.Slice(each, list(first), ends, axes, apart) for each in (dY, indices))
            parts.append(_put(g, part, places, X, add=False))
    return [parts[0] if len(parts) == 1 else g.Sum(*parts)]


def _windows(g: Builder, node: ir.Node) -> Windows:
    """The windows of a pooling."""
    X = node.inputs[0]
    seen = windows(g, node, X, node.outputs[0], kernel_of(node, g.shape(X)))
    for n, c, s, b in zip(seen.size, seen.count, seen.strides, seen.before, strict=True):
        if attribute(node, "ceil_mode", 0) and n is not None and c is not None and (c - 1) * s >= n + b:
            raise g.refuse(
                "its last window has nothing but padding, which ceil_mode = 1 lets versions of ONNX Runtime count or "
                "not: export the model with opset 22 or newer, or without that padding"
            )
    return seen


def _put(g: Builder, dY: ir.Value, indices: ir.Value, X: Read, *, add: bool) -> ir.Value:
    zeros = g.Expand(g.scalar(0, X), g.Reshape(g.Size(X), [1]))
    write = g.scatter_add if add else g.op
    return g.reshape_like(write("ScatterElements", zeros, g.Reshape(indices, [-1]), g.Reshape(dY, [-1])), X)


@rule("AveragePool")
def average_pool(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """AveragePool: each element of a window gets dY / count."""
    X = node.inputs[0]
    seen = _windows(g, node)
    return [_spread(g, _shared(g, node, dY, seen), seen, X)]


def _shared(g: Builder, node: ir.Node, dY: ir.Value, seen: Windows) -> ir.Value:
    """DY divided by the count of each window."""
    whole = math.prod(seen.kernel)
    if not seen.fixed:
        return g.Div(dY, _count(g, node, seen, whole))
    inside = _elements_inside(g, seen)
    if not (any(seen.pads) or any(r < 0 for r in seen.rest)):
        return g.Div(dY, whole)
    if not attribute(node, "count_include_pad", 0):
        return g.Div(dY, g.constant(inside.astype(g.dtype(dY).numpy()), g.dtype(dY)))
    if all(r >= 0 for r in seen.rest):
        return g.Div(dY, whole)
    # Implementations count differently where a window goes beyond the padding. So ask the op itself: its mean of ones
    # is the number of elements inside divided by its count.
    ones = g.constant(np.ones([1, 1, *g.fixed(node.inputs[0], seen.axes)]).astype(g.dtype(dY).numpy()), g.dtype(dY))
    means = g.op("AveragePool", ones, **{name: value.value for name, value in node.attributes.items()})
    return g.Mul(dY, g.Div(means, g.constant(inside.astype(g.dtype(dY).numpy()), g.dtype(dY))))


def _count(g: Builder, node: ir.Node, seen: Windows, whole: int) -> ir.Value:
    """The count by which each window is divided, if sizes are known only at run time: a convolution of ones by ones."""
    X = node.inputs[0]
    if attribute(node, "ceil_mode", 0):
        raise g.refuse("ceil_mode = 1 needs fixed sizes: export the model with only the batch dynamic")
    if attribute(node, "count_include_pad", 0) or not any(seen.pads):
        return g.scalar(whole, X)
    dtype = g.dtype(X)
    one, kernel = (g.constant(np.ones(shape).astype(dtype.numpy()), dtype) for shape in ([1], [1, 1, *seen.kernel]))
    ones = g.Expand(one, g.joined([[1, 1], g.sizes_of(X, list(seen.axes))]), shape=(1, 1, *seen.size))
    return g.Conv(ones, kernel, pads=seen.pads, strides=list(seen.strides), dilations=list(seen.dilations))


def _elements_inside(g: Builder, seen: Windows) -> np.ndarray:
    """How many elements of each window are data: [1, 1, windows]."""
    result = np.ones((1,) * (2 + len(seen.count)))
    for axis, (n, c, k, s, d, b) in enumerate(
        zip(seen.size, seen.count, seen.kernel, seen.strides, seen.dilations, seen.before, strict=True)
    ):
        assert n is not None
        assert c is not None
        g.check_size(c, k)
        places = np.arange(c)[:, None] * s + np.arange(k)[None, :] * d - b
        inside = ((places >= 0) & (places < n)).sum(axis=1)
        result = result * inside.reshape([-1 if i == axis + 2 else 1 for i in range(result.ndim)])
    return result


def _spread(g: Builder, share: ir.Value, seen: Windows, X: Read) -> ir.Value:
    """Adds the share of each window to each of its elements."""
    tiles = not seen.overlap and seen.extent == seen.strides == seen.kernel and not any(seen.pads)
    if tiles and not seen.loose and not any(seen.rest):
        apart = g.Unsqueeze(share, [axis + i + 1 for i, axis in enumerate(seen.axes)])
        sizes: list[ir.Value | list[int]] = []
        for axis, k in zip(seen.axes, seen.kernel, strict=True):
            sizes += [g.sizes_of(share, [axis]), [k]]
        repeated = g.Expand(apart, g.joined([g.sizes_of(share, [0, 1]), *sizes]))
        return g.reshape_like(repeated, X)
    # Each channel separately: as samples of one channel.
    kernel = g.constant(np.ones((1, 1, *seen.kernel)).astype(g.dtype(share).numpy()), g.dtype(share))
    axes = list(seen.axes)
    alone = g.Reshape(share, g.joined([[-1, 1], g.sizes_of(share, axes)]), shape=(None, 1, *seen.count))
    data = g.Reshape(g.there(X), g.joined([[-1, 1], g.sizes_of(X, axes)]), shape=(None, 1, *seen.size))
    return g.reshape_like(transposed(g, alone, kernel, seen, 1, data), X)


@rule("LpPool")
def lp_pool(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """LpPool: dX = sign(X) |X|^(p - 1) times the sum of dY Y^(1 - p) over the windows; zero where Y is."""
    X, Y, p = node.inputs[0], node.outputs[0], attribute(node, "p", 2)
    seen = _windows(g, node)
    return [g.Mul(_slope(g, X, p), _spread(g, g.Mul(dY, _share(g, Y, p)), seen, X))]


@rule("GlobalLpPool")
def global_lp_pool(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """GlobalLpPool: dX = dY sign(X) |X|^(p - 1) Y^(1 - p)."""
    X, Y, p = node.inputs[0], node.outputs[0], attribute(node, "p", 2)
    return [g.Mul(_slope(g, X, p), g.Mul(dY, _share(g, Y, p)))]


def _slope(g: Builder, X: Read, p: int) -> ir.Value:
    if p == 1:
        return g.Sign(X)
    return g.there(X) if p == 2 else g.Mul(g.Sign(X), g.Pow(g.Abs(X), float(p - 1)))


def _share(g: Builder, Y: ir.Value, p: int) -> ir.Value:
    power = g.Pow(g.Where(g.Equal(Y, 0.0), g.scalar(1, Y), Y), float(1 - p))
    return g.Where(g.Equal(Y, 0.0), g.scalar(0, Y), power)


@rule("GlobalAveragePool")
def global_average_pool(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """GlobalAveragePool: dX = dY / count."""
    X = node.inputs[0]
    return [g.expand_like(g.divided_by_count(dY, X, range(2, g.rank(X))), X)]


@rule("GlobalMaxPool")
def global_max_pool(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """GlobalMaxPool: equal largest elements share dY."""
    X = node.inputs[0]
    chosen = g.Cast(g.Equal(X, node.outputs[0]), to=g.dtype(X).value)
    return [g.Mul(chosen, g.Div(dY, g.sum(chosen, range(2, g.rank(X)))))]
