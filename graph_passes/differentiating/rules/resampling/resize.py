"""Gradient rules of Resize and Upsample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import optional_input
from onnx_cbp.graph_passes.differentiating.along_axis import back_along
from onnx_cbp.graph_passes.differentiating.attributes import ints, text
from onnx_cbp.graph_passes.differentiating.builder import Builder
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule

_HALF_PIXEL = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")


@rule("Resize")
def resize(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Resize: the op multiplies each axis by a matrix, and the transposed matrix makes dX.

    The matrix is the op's result for the identity. So every mode means what it means to the runtime; constant folding
    computes it once. If every element is repeated a whole number of times, the repetitions are summed without a matrix.
    """
    X, Y = node.inputs[0], node.outputs[0]
    if text(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise g.refuse("tf_crop_and_resize is not supported: crop with Slice")
    if text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise g.refuse("keep_aspect_ratio_policy is not supported: give the sizes themselves")
    scales = _scales(g, node)
    if not all(0 < scale < math.inf for scale in scales):
        raise g.refuse(f"its scales are {scales}, expected finite numbers above 0")
    axes = [axis for axis, scale in enumerate(scales) if scale != 1]
    repeats = [_repeats(node, scales[axis]) for axis in axes]
    if all(repeats):
        return [_added_up(g, dY, X, axes, repeats), ZERO]
    for axis in axes:
        (before,), (after,) = g.fixed(X, [axis]), g.fixed(Y, [axis])
        dY = back_along(g, dY, _matrix(g, node, before, after, scales[axis], g.dtype(dY)), axis)
    return [g.let_be_like(dY, X) if axes else dY, ZERO]


def _scales(g: Builder, node: ir.Node) -> list[float]:
    """The scale of every axis."""
    X, Y, scales, sizes = node.inputs[0], node.outputs[0], optional_input(node, 2), optional_input(node, 3)
    rank = g.rank(X)
    axes = [axis % rank for axis in ints(node, "axes", range(rank))]
    result = [1.0] * rank
    if scales is not None and g.known(scales) is not None and g.needed(scales, "").size:
        for axis, scale in zip(axes, g.needed(scales, "").tolist(), strict=True):
            result[axis] = scale
        return result
    for axis in axes:
        before, after = g.shape(X)[axis], g.shape(Y)[axis]
        if axis >= 2 or (isinstance(before, int) and isinstance(after, int)):
            (n,), (m,) = g.fixed(X, [axis]), g.fixed(Y, [axis])
            result[axis] = m / n
        elif before != after and sizes is None:
            raise g.refuse(f"the scale of axis {axis} is not known")
    return result


def _repeats(node: ir.Node, scale: float) -> int:
    """How often each element is repeated; 0 if the scale is not a whole number, or the mode repeats nothing."""
    mode = text(node, "coordinate_transformation_mode", "half_pixel")
    rounding = text(node, "nearest_mode", "round_prefer_floor")
    rounds = mode in _HALF_PIXEL and rounding in ("round_prefer_floor", "round_prefer_ceil")
    floors = mode == "asymmetric" and rounding == "floor"
    nearest = text(node, "mode", "nearest") == "nearest" and (rounds or floors)
    return int(scale) if nearest and scale == int(scale) and scale >= 1 else 0


def _added_up(g: Builder, dY: ir.Value, X: ir.Value | None, axes: Sequence[int], repeats: Sequence[int]) -> ir.Value:
    """The sum of dY over the repetitions of each element."""
    if not axes:
        return dY
    sizes: list[ir.Value | list[int]] = []
    summed: list[int] = []
    for axis in range(g.rank(dY)):
        sizes.append(g.sizes_of(X, [axis]))
        if axis in axes:
            summed.append(axis + len(summed) + 1)
            sizes.append([repeats[list(axes).index(axis)]])
    shape: list[Any] = []
    for axis, size in enumerate(g.shape(X)):
        shape += [size, repeats[list(axes).index(axis)]] if axis in axes else [size]
    return g.reduce("ReduceSum", g.Reshape(dY, g.joined(sizes), shape=shape), summed, keepdims=0, like=X)


def _matrix(g: Builder, node: ir.Node, before: int, after: int, scale: float, dtype: ir.DataType) -> ir.Value:
    """The node's result for the identity along one axis: [after, before]."""
    attributes: dict[str, Any] = {n: v.value for n, v in node.attributes.items() if n != "axes"}
    g.check_size(before, before)
    identity = g.constant(np.eye(before).astype(dtype.numpy()), dtype)
    scales = optional_input(node, 2)
    if scales is not None and g.known(scales) is not None and g.needed(scales, "").size:
        return g.Resize(identity, None, np.array([scale, 1], np.float32), shape=(after, before), **attributes)
    return g.Resize(identity, None, None, [after, before], shape=(after, before), **attributes)
