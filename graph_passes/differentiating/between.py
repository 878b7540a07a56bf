"""Samples an image between its elements, and gives the gradients of that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.graph_passes.differentiating.builder import Builder, Read


@dataclass
class Neighbour:
    """One of the elements between which points lie along one axis; all values are [images, 1, points].

    Attributes:
        place: its index, moved inside the image.
        inside: 1 where it is in the image, and 0 where it is padding.
        weight: its share of the point, in the type of the image; None: it is the point's only neighbour.
        slope: the derivative of the share by the point: -1 or 1.
    """

    place: ir.Value
    inside: ir.Value
    weight: ir.Value | None = None
    slope: float = 0.0


def neighbours(g: Builder, X: Read, at: ir.Value, size: int, *, nearest: bool = False) -> list[Neighbour]:
    """The neighbours of points along an axis of the image X. With `nearest`, only the nearest one."""
    if nearest:
        return [_neighbour(g, X, g.Round(at), size)]
    low = g.Floor(at)
    beyond = g.as_type(g.Sub(at, low), g.dtype(X))
    first, second = (_neighbour(g, X, each, size) for each in (low, g.Add(low, 1.0)))
    first.weight, first.slope = g.Sub(g.scalar(1, beyond), beyond), -1.0
    second.weight, second.slope = beyond, 1.0
    return [first, second]


def _neighbour(g: Builder, X: Read, index: ir.Value, size: int) -> Neighbour:
    # Not GreaterOrEqual: onnx 1.16 infers no type for it.
    inside = g.Not(g.Or(g.Less(index, 0.0), g.Greater(index, float(size - 1))))
    place = g.Cast(g.Min(g.Max(index, 0.0), float(size - 1)), to=ir.DataType.INT64.value)
    return Neighbour(place, g.Cast(inside, to=g.dtype(X).value))


@dataclass
class Sampling:
    """Where an image is sampled.

    Attributes:
        image: its elements, [images, channels, height * width].
        rows, columns: the neighbours of each point.
        width: of the image.
    """

    image: ir.Value
    rows: Sequence[Neighbour]
    columns: Sequence[Neighbour]
    width: int

    def values(self, g: Builder, like: ir.Value) -> ir.Value:
        """The values at the points, [images, channels, points]; `like` has this shape."""
        parts = []
        for place, row, column in self._pairs(g, like):
            part = g.Mul(g.GatherElements(self.image, place, axis=2), g.Mul(row.inside, column.inside))
            parts.append(_shared(g, part, row, column))
        return g.Sum(*parts)

    def by_image(self, g: Builder, dY: ir.Value) -> ir.Value:
        """The gradient of the image, given that of the sampled values: each neighbour gets its share."""
        result = g.zeros_like(self.image)
        for place, row, column in self._pairs(g, dY):
            part = _shared(g, g.Mul(dY, g.Mul(row.inside, column.inside)), row, column)
            result = g.scatter_add("ScatterElements", result, place, part, axis=2)
        return result

    def by_points(self, g: Builder, dY: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The gradients of the points' places, by column and by row, [images, 1, points]."""
        along: tuple[list[ir.Value], list[ir.Value]] = ([], [])
        for place, row, column in self._pairs(g, dY):
            assert row.weight is not None
            assert column.weight is not None
            arriving = g.Mul(dY, g.Mul(row.inside, column.inside))
            met = g.sum(g.Mul(arriving, g.GatherElements(self.image, place, axis=2)), [1])
            along[0].append(g.Mul(g.Mul(met, row.weight), column.slope))
            along[1].append(g.Mul(g.Mul(met, column.weight), row.slope))
        by_column, by_row = (g.Sum(*parts) for parts in along)
        return by_column, by_row

    def _pairs(self, g: Builder, like: ir.Value) -> Iterator[tuple[ir.Value, Neighbour, Neighbour]]:
        for row in self.rows:
            for column in self.columns:
                place = g.Add(g.Mul(row.place, self.width), column.place)
                yield g.expand_like(place, like), row, column


def _shared(g: Builder, value: ir.Value, row: Neighbour, column: Neighbour) -> ir.Value:
    for weight in (row.weight, column.weight):
        value = value if weight is None else g.Mul(value, weight)
    return value
