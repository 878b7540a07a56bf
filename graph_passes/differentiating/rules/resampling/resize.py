"""Gradient rules of Resize and Upsample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import optional_input
from onnx_cbp.graph_passes.differentiating.along_axis import back_along
from onnx_cbp.graph_passes.differentiating.attributes import ints, text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
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
        along = Along(before, after, scales[axis])
        # ONNX Runtime copies what keeps its shape, whatever the scales; not if another axis gets another size.
        kept = before == after and _changes_size(g, X, Y)
        make = _matrix_of_same_size if kept else _matrix
        dY = back_along(g, dY, make(g, node, along, g.dtype(dY)), axis)
    return [g.let_be_like(dY, X) if axes else dY, ZERO]


def _changes_size(g: Builder, X: Read, Y: Read) -> bool:
    """Whether an axis gets another size; one that has no fixed size is not resized."""
    pairs = zip(g.shape(X), g.shape(Y), strict=True)
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)


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


@dataclass(frozen=True)
class Along:
    """What happens to an axis: its size before and after, and the scale."""

    before: int
    after: int
    scale: float


def _matrix(g: Builder, node: ir.Node, along: Along, dtype: ir.DataType) -> ir.Value:
    """The node's result for the identity along one axis: [after, before]."""
    before, after = along.before, along.after
    scales = optional_input(node, 2)
    if scales is not None and g.known(scales) is not None and g.needed(scales, "").size:
        factors = np.array([along.scale, 1], np.float32)
        return g.Resize(_identity(g, before, dtype), None, factors, shape=(after, before), **_attributes(node))
    return g.Resize(
        _identity(g, before, dtype), None, None, [after, before], shape=(after, before), **_attributes(node)
    )


def _matrix_of_same_size(g: Builder, node: ir.Node, along: Along, dtype: ir.DataType) -> ir.Value:
    """The same for an axis that keeps its size, though its scale is not 1; another axis is repeated meanwhile."""
    size = along.before
    columns = g.Unsqueeze(_identity(g, size, dtype), [1, 3])  # as images of one column
    scales = np.array([1, 1, along.scale, 2], np.float32)
    twice = g.Resize(columns, None, scales, shape=(size, 1, size, 2), **_attributes(node))
    return g.Transpose(g.Reshape(g.Slice(twice, [0], [1], [3]), [size, size]), perm=[1, 0])


def _identity(g: Builder, size: int, dtype: ir.DataType) -> ir.Value:
    g.check_size(size, size)
    return g.constant(np.eye(size).astype(dtype.numpy()), dtype)


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items() if name != "axes"}
