"""Gradient rules of ops that sample an image at given points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute
from onnx_cbp.graph_passes.differentiating.attributes import text
from onnx_cbp.graph_passes.differentiating.between import Sampling, neighbours
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule

_IMAGES = 4  # axes


@rule("GridSample")
def grid_sample(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """GridSample: each neighbour of a point gets its share of dY. The point's place decides the shares.

        Y[p] = sum over neighbours of w X[place],   dX[place] += w dY[p],   d grid[p] = sum of dw X[place] dY[p]

    Along each axis the share w is 1 - f or f, with f the fraction of the point's place.
    """
    X, grid = node.inputs
    mode = text(node, "mode", "bilinear")
    if g.rank(X) != _IMAGES:
        raise g.refuse(f"X has {g.rank(X)} axes, and images of {_IMAGES} are supported")
    if mode not in ("bilinear", "linear", "nearest"):
        raise g.refuse(f"mode '{mode}' is not supported: use linear or nearest")
    if text(node, "padding_mode", "zeros") == "reflection":
        raise g.refuse("padding_mode 'reflection' is not supported: use zeros or border")
    height, width = g.fixed(X, [2, 3])
    nearest = mode == "nearest"
    (x, by_x), (y, by_y) = _places(g, node, grid, 0, width), _places(g, node, grid, 1, height)
    columns, rows = neighbours(g, X, x, width, nearest=nearest), neighbours(g, X, y, height, nearest=nearest)
    flat_X, flat_dY = g.Reshape(X, [0, 0, height * width]), _flat(g, dY, [0, 1])
    sampling = Sampling(flat_X, rows, columns, width)
    dX = g.reshape_like(sampling.by_image(g, flat_dY), X)
    if nearest:
        return [dX, ZERO]
    both = zip(sampling.by_points(g, flat_dY), (by_x, by_y), strict=True)
    moved = [g.Mul(g.as_type(each, g.dtype(grid)), by) for each, by in both]
    return [dX, g.reshape_like(g.Transpose(g.Concat(*moved, axis=1), perm=[0, 2, 1]), grid)]


def _flat(g: Builder, value: Read, kept: Sequence[int]) -> ir.Value:
    """Values at points of a plane, as [N, C, points]; `kept` are the axes of N and C, which are there in this order."""
    shape = g.shape(value)
    plane = [axis for axis in range(_IMAGES) if axis not in kept]
    points = g.computed("Mul", *(g.sizes_of(value, [axis]) for axis in plane))  # not -1: there may be no images
    fixed = [size for axis in plane if isinstance(size := shape[axis], int)]
    count = math.prod(fixed) if len(fixed) == len(plane) else None
    batch, channels = (shape[axis] for axis in kept)
    return g.reshape(value, g.joined([g.sizes_of(value, kept), points]), shape=(batch, channels, count))


def _places(g: Builder, node: ir.Node, grid: Read, axis: int, size: int) -> tuple[ir.Value, ir.Value]:
    """The places of points along an axis, counted in elements, [N, 1, points]; and their derivative by the grid."""
    given = _flat(g, g.Gather(grid, [axis], axis=3), [0, 3])
    scale = g.scalar((size - 1) / 2 if attribute(node, "align_corners", 0) else size / 2, given)
    at = g.Add(g.Mul(given, scale), (size - 1) / 2)
    if text(node, "padding_mode", "zeros") == "zeros":
        return at, scale
    between = g.And(g.GreaterOrEqual(at, 0.0), g.LessOrEqual(at, float(size - 1)))
    return g.Min(g.Max(at, 0.0), float(size - 1)), g.Where(between, scale, g.scalar(0, scale))
