"""Sampling between the elements of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute
from onnx_cbp.graph_passes.differentiating.attributes import text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule

_IMAGES = 4  # axes


@dataclass
class _Neighbour:
    """One of the elements that a point lies between, along one axis; all are [N, 1, points].

    Attributes:
        place: its index, brought inside the image.
        inside: 1 where it is in the image, and 0 where it is padding.
        weight: its share of the point, of the type of the image.
        slope: how the share changes with the point: -1 or 1.
    """

    place: ir.Value
    inside: ir.Value
    weight: ir.Value | None = None
    slope: float = 0.0


@rule("GridSample")
def grid_sample(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """GridSample: each neighbour has its share of dY; a point moves the shares of its neighbours.

        Y[p] = sum over neighbours of w X[place],   dX[place] += w dY[p],   d grid[p] = sum of dw X[place] dY[p]

    Along each axis the share w is 1 - f or f, with f the fraction of the point's place.
    """
    X, grid = node.inputs
    mode, padding = text(node, "mode", "bilinear"), text(node, "padding_mode", "zeros")
    if g.rank(X) != _IMAGES:
        raise g.refuse(f"X has {g.rank(X)} axes, and images of {_IMAGES} are supported")
    if mode not in ("bilinear", "linear", "nearest"):
        raise g.refuse(f"mode '{mode}' is not supported: use linear or nearest")
    if padding == "reflection":
        raise g.refuse("padding_mode 'reflection' is not supported: use zeros or border")
    height, width = g.fixed(X, [2, 3])
    points = {axis: _places(g, node, grid, axis, size) for axis, size in ((0, width), (1, height))}
    (columns, by_x), (rows, by_y) = (
        (_neighbours(g, X, at, size, nearest=mode == "nearest"), by)
        for (at, by), size in ((points[0], width), (points[1], height))
    )
    flat_X, flat_dY = (g.Reshape(g.there(each), [0, 0, -1]) for each in (X, dY))
    dX = g.zeros_like(flat_X)
    along: tuple[list[ir.Value], list[ir.Value]] = ([], [])
    for row, column in ((row, column) for row in rows for column in columns):
        place = g.expand_like(g.Add(g.Mul(row.place, width), column.place), flat_dY)
        arriving = g.Mul(flat_dY, g.Mul(row.inside, column.inside))
        shares = [each.weight for each in (row, column) if each.weight is not None]
        part = arriving
        for share in shares:
            part = g.Mul(part, share)
        dX = g.ScatterElements(dX, place, part, axis=2, reduction="add")
        if row.weight is None or column.weight is None or not g.wants(grid):
            continue
        met = g.sum(g.Mul(arriving, g.GatherElements(flat_X, place, axis=2)), [1])
        along[0].append(g.Mul(g.Mul(met, row.weight), column.slope))
        along[1].append(g.Mul(g.Mul(met, column.weight), row.slope))
    dX = g.reshape_like(dX, X)
    if not along[0]:
        return [dX, ZERO]
    moved = [g.Mul(g.as_type(g.Sum(*parts), g.dtype(grid)), by) for parts, by in zip(along, (by_x, by_y), strict=True)]
    return [dX, g.reshape_like(g.Transpose(g.Concat(*moved, axis=1), perm=[0, 2, 1]), grid)]


def _places(g: Builder, node: ir.Node, grid: Read, axis: int, size: int) -> tuple[ir.Value, ir.Value]:
    """Where points are among the elements of an axis, [N, 1, points], and how that changes with the grid."""
    given = g.Reshape(g.Gather(grid, np.array(axis, np.int64), axis=3), [0, 1, -1])
    scale = g.scalar((size - 1) / 2 if attribute(node, "align_corners", 0) else size / 2, given)
    at = g.Add(g.Mul(given, scale), (size - 1) / 2)
    if text(node, "padding_mode", "zeros") == "zeros":
        return at, scale
    between = g.And(g.GreaterOrEqual(at, 0.0), g.LessOrEqual(at, float(size - 1)))
    return g.Min(g.Max(at, 0.0), float(size - 1)), g.Where(between, scale, g.scalar(0, scale))


def _neighbours(g: Builder, X: Read, at: ir.Value, size: int, *, nearest: bool) -> list[_Neighbour]:
    """What points lie between along an axis; the nearest element alone, halves to the even one."""
    if nearest:
        return [_neighbour(g, X, g.Round(at), size)]
    low = g.Floor(at)
    beyond = g.as_type(g.Sub(at, low), g.dtype(X))
    first, second = (_neighbour(g, X, each, size) for each in (low, g.Add(low, 1.0)))
    first.weight, first.slope = g.Sub(g.scalar(1, beyond), beyond), -1.0
    second.weight, second.slope = beyond, 1.0
    return [first, second]


def _neighbour(g: Builder, X: Read, index: ir.Value, size: int) -> _Neighbour:
    inside = g.And(g.GreaterOrEqual(index, 0.0), g.LessOrEqual(index, float(size - 1)))
    place = g.Cast(g.Min(g.Max(index, 0.0), float(size - 1)), to=ir.DataType.INT64.value)
    return _Neighbour(place, g.Cast(inside, to=g.dtype(X).value))
