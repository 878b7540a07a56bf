"""Gradient rules of ops that cut regions out of an image, as in object detectors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute
from onnx_cbp.graph_passes.differentiating.attributes import text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import InputGradient, rule

_HALF_PIXEL_SINCE = 16
_FIRST, _LAST = {"x": 0, "y": 1}, {"x": 2, "y": 3}  # where the coordinates of a region begin and end


@rule("RoiAlign")
def roi_align(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """RoiAlign: each bin is the mean of points, and each point is a weighted sum of the elements around it.

        dX[batch, c, row, column] += share of row * share of column * dY[region, c, bin] / points of a bin

    A network chose the regions. Neither this op nor PyTorch's has a gradient for them.
    """
    X, rois, batch = node.inputs
    ratio, bins = attribute(node, "sampling_ratio", 0), [attribute(node, f"output_{n}", 1) for n in ("height", "width")]
    if text(node, "mode", "avg") != "avg":
        raise g.refuse("mode 'max' is not supported: use avg")
    if ratio < 1:
        raise g.refuse("sampling_ratio = 0 takes as many points as a region is large: give a number")
    if not g.can_scatter_add():
        raise g.refuse("what meets in one place is added up by opset 16 and newer: convert with onnx.version_converter")
    channels, height, width = g.fixed(X, [1, 2, 3])
    rows = _shares(g, node, rois, "y", bins[0] * ratio, height)
    columns = _shares(g, node, rois, "x", bins[1] * ratio, width)
    first = g.Unsqueeze(g.Mul(batch, height * width), [1, 2])
    mean = g.Unsqueeze(g.Div(dY, float(ratio**2)), [3, 5])
    several = g.Expand(mean, g.joined([g.sizes_of(dY, [0, 1]), [bins[0], ratio, bins[1], ratio]]))
    arriving = g.Transpose(g.Reshape(several, [0, 0, bins[0] * bins[1] * ratio**2]), perm=[0, 2, 1])
    by_channel = g.Transpose(g.zeros_like(X), perm=[0, 2, 3, 1])
    dX = g.Reshape(by_channel, [-1, channels])
    for row, of_row in rows:
        for column, of_column in columns:
            inside = g.Add(g.Unsqueeze(g.Mul(row, width), [2]), g.Unsqueeze(column, [1]))
            places = g.Reshape(g.Add(inside, first), [0, -1, 1])
            share = g.Reshape(g.Mul(g.Unsqueeze(of_row, [2]), g.Unsqueeze(of_column, [1])), [0, -1, 1])
            dX = g.scatter_add("ScatterND", dX, places, g.Mul(arriving, share))
    return [g.Transpose(g.reshape_like(dX, by_channel), perm=[0, 3, 1, 2], like=X)]


def _shares(g: Builder, node: ir.Node, rois: Read, axis: str, count: int, size: int) -> list[tuple[ir.Value, ir.Value]]:
    """The elements on both sides of each point along an axis, and their weights: both [regions, points]."""
    default = "half_pixel" if g.opset >= _HALF_PIXEL_SINCE else "output_half_pixel"
    half = text(node, "coordinate_transformation_mode", default) == "half_pixel"
    scaled = g.Mul(rois, float(attribute(node, "spatial_scale", 1.0)))
    start, end = (g.Gather(scaled, np.array([each[axis]]), axis=1) for each in (_FIRST, _LAST))
    extent = g.Sub(end, start) if half else g.Max(g.Sub(end, start), 1.0)
    dtype = g.dtype(rois)
    steps = g.constant(((np.arange(count) + 0.5) / count)[None].astype(dtype.numpy()), dtype)
    at = g.Add(g.Sub(start, 0.5) if half else start, g.Mul(extent, steps))
    seen = g.Cast(g.And(g.GreaterOrEqual(at, -1.0), g.LessOrEqual(at, float(size))), to=dtype.value)
    kept = g.Min(g.Max(at, 0.0), float(size - 1))
    low = g.Floor(kept)
    high, beyond = g.Min(g.Add(low, 1.0), float(size - 1)), g.Sub(kept, low)
    shares = (g.Sub(g.scalar(1, beyond), beyond), beyond)
    return [
        (g.Cast(place, to=ir.DataType.INT64.value), g.Mul(share, seen))
        for place, share in zip((low, high), shares, strict=True)
    ]
