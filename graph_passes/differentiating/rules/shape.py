"""Gradient rules of ops that move elements: they reshape, reorder, join, cut or repeat."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.differentiating.along_axis import back_along
from onnx_cbp.graph_passes.differentiating.attributes import ints, text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Reshape and its kin: dY in the shape of X."""
    return [g.reshape_like(dY, node.inputs[0])]


@rule("Transpose")
def transpose(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Transpose: the inverse permutation."""
    perm = ints(node, "perm", range(g.rank(node.inputs[0]))[::-1])
    return [g.Transpose(dY, perm=np.argsort(perm).tolist())]


@rule("Expand")
def expand(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Expand: the sum over the repetitions."""
    return [g.unbroadcast(dY, node.inputs[0])]


@rule("Concat")
def concat(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Concat: each input gets its part of dY."""
    if len(node.inputs) == 1:
        return [dY]
    axis = attribute(node, "axis", 0) % g.rank(dY)
    sizes = [g.sizes_of(X, [axis]) for X in node.inputs]
    if all(size.const_value is not None for size in sizes):
        sizes_vector = g.ints(*(g.fixed(X, [axis])[0] for X in node.inputs))
    else:
        sizes_vector = g.Concat(*sizes, axis=0)
    parts = g.ops("Split", dY, sizes_vector, axis=axis, outputs=len(sizes))
    return [g.let_be_like(part, X) for part, X in zip(parts, node.inputs, strict=True)]


@rule("Split")
def split(g: Builder, node: ir.Node, *gradients: ir.Value | None) -> list[InputGradient]:
    """Split: the gradients of the parts, joined; zeros for a part without a gradient."""
    axis = attribute(node, "axis", 0)
    X = node.inputs[0]
    rest = [None if i == axis % g.rank(X) else size for i, size in enumerate(g.shape(X))]
    parts = [g.zeros_like(g.output(node, i, g.dtype(X), rest)) if dY is None else dY for i, dY in enumerate(gradients)]
    return [g.Concat(*parts, axis=axis, like=X)]


@rule("DepthToSpace")
def depth_to_space(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """DepthToSpace: SpaceToDepth, which has the DCR order; for the CRD order channels and blocks are exchanged."""
    X, block = node.inputs[0], attribute(node, "blocksize", 1)
    dX = g.SpaceToDepth(dY, blocksize=block)
    if text(node, "mode", "DCR") == "DCR":
        return [dX]
    (depth,) = g.fixed(X, [1])
    return [_reorder_channels(g, dX, X, [block * block, depth // block**2])]


@rule("SpaceToDepth")
def space_to_depth(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """SpaceToDepth: DepthToSpace in the DCR order."""
    return [g.DepthToSpace(dY, blocksize=attribute(node, "blocksize", 1), mode="DCR")]


def _reorder_channels(g: Builder, dX: ir.Value, X: Read, sizes: list[int]) -> ir.Value:
    """Splits the channels into two axes of these sizes, and exchanges the two."""
    batch, _, *space = g.shape(X)
    apart = g.joined([g.sizes_of(X, [0]), sizes, g.sizes_of(X, [2, 3])])
    spread = g.Reshape(dX, apart, shape=(batch, *sizes, *space))
    return g.reshape_like(g.Transpose(spread, perm=[0, 2, 1, 3, 4]), X)


@rule("Tile")
def tile(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Tile: the sum over the repetitions, for which each axis of X is split in two."""
    X, repeats = node.inputs
    known, rank = g.known(repeats), g.rank(X)
    if known is not None and known.shape != (rank,):
        raise g.refuse(f"its repeats have shape {list(known.shape)}, and '{g.there(X).name}' has {rank} axes")
    sizes: list[ir.Value | list[int]] = []
    for axis in range(rank):
        often = g.Slice(repeats, [axis], [axis + 1]) if known is None else [int(known[axis])]
        sizes += [often, g.sizes_of(X, [axis])]
    apart = g.reshape(dY, g.joined(sizes), shape=[each for size in g.shape(X) for each in (None, size)])
    return [g.reduce("ReduceSum", apart, range(0, 2 * rank, 2), keepdims=0, like=X), ZERO]


@rule("Slice")
def slice_(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Slice: dY, with zeros in the places of the elements that were left out."""
    X, starts = node.inputs[0], node.inputs[1]
    rank = g.rank(X)
    axes, steps = _axes_and_steps(g, node, rank)
    step_of = [1] * rank
    for axis, step in zip(axes, steps, strict=True):
        step_of[axis] = step
    backwards = [axis for axis in axes if step_of[axis] < 0]
    if backwards:
        many = len(backwards)
        dY = g.Slice(dY, [-1] * many, [np.iinfo(np.int64).min] * many, backwards, [-1] * many, like=dY)
    before: list[ir.Value | list[int]] = [[0]] * rank
    after: list[ir.Value | list[int]] = [[0]] * rank
    for index, axis in enumerate(axes):
        distance = abs(step_of[axis])
        if distance > 1:
            dY = _with_zeros_between(g, dY, axis, distance)
        size, length = g.sizes_of(X, [axis]), g.sizes_of(node.outputs[0], [axis])
        first = _first(g, starts, index, size, backwards=step_of[axis] < 0)
        if step_of[axis] < 0:  # the slice has its last element first
            first = g.computed("Sub", first, g.computed("Mul", g.computed("Sub", length, [1]), [distance]))
        before[axis] = first
        spread = g.computed("Mul", length, [distance])  # the zeros after the last element may reach beyond X
        after[axis] = g.computed("Sub", g.computed("Sub", size, first), spread)
    return [g.Pad(dY, g.joined([*before, *after]), like=X), *[ZERO] * 4]


def _axes_and_steps(g: Builder, node: ir.Node, rank: int) -> tuple[list[int], list[int]]:
    """The axes of a slice, in the order of its starts, and the step along each."""
    starts, given, steps = node.inputs[1], optional_input(node, 3), optional_input(node, 4)
    if g.known(starts) is not None:
        count = len(g.needed_vector(starts, "what it starts at,"))
    else:
        (count,) = g.fixed(starts, [0])
    axes = list(range(count))
    if given is not None:
        axes = [int(axis) % rank for axis in g.needed_vector(given, "what names its axes,")]
    if steps is None:
        return axes, [1] * len(axes)
    return axes, g.needed_vector(steps, "what says its steps,").tolist()


def _first(g: Builder, starts: Read, index: int, size: ir.Value, *, backwards: bool) -> ir.Value:
    """The start of a slice, counted from the front and clipped to the axis."""
    start = g.computed("Slice", starts, [index], [index + 1])
    start = g.computed("Cast", start, to=ir.DataType.INT64.value)
    from_front = g.computed("Where", g.computed("Less", start, [0]), g.computed("Add", start, size), start)
    last = g.computed("Sub", size, [1]) if backwards else size
    return g.computed("Max", g.computed("Min", from_front, last), [0])


def _with_zeros_between(g: Builder, dY: ir.Value, axis: int, distance: int) -> ir.Value:
    """Inserts distance - 1 zeros after each element along an axis."""
    rank = g.rank(dY)
    pads = [0] * (2 * rank + 2)
    pads[rank + 1 + axis + 1] = distance - 1
    spread = g.Pad(g.Unsqueeze(dY, [axis + 1]), pads)
    shape = [*g.shape(dY)]
    sizes: list[ir.Value | list[int]] = [g.sizes_of(dY, [i]) for i in range(rank)]
    sizes[axis] = g.computed("Mul", sizes[axis], [distance])
    size = shape[axis]
    shape[axis] = size * distance if isinstance(size, int) else None
    return g.reshape(spread, g.joined(sizes), shape=shape)


@rule("Pad")
def pad(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Pad: dY without the padding; if the padding copies elements, its gradient is added to theirs."""
    X, pads = node.inputs[0], node.inputs[1]
    mode, rank = text(node, "mode", "constant"), g.rank(X)
    given = optional_input(node, 3)
    axes = list(range(rank)) if given is None else [int(a) % rank for a in g.needed(given, "what names its axes,")]
    if mode == "constant":
        if given is None:
            return [g.Pad(dY, g.computed("Neg", pads), like=X), ZERO]
        known = g.needed(pads, "what it adds,").tolist()
        whole = [0] * 2 * rank
        for index, axis in enumerate(axes):
            whole[axis], whole[rank + axis] = -known[index], -known[len(axes) + index]
        return [g.Pad(dY, whole, like=X), ZERO]
    known = g.needed(pads, "what it adds,").tolist()
    for index, axis in enumerate(axes):
        before, after = known[index], known[len(axes) + index]
        if before or after:
            (size,) = g.fixed(X, [axis])
            dY = back_along(g, dY, _copies(g, size, before, after, mode, g.dtype(X)), axis)
    return [g.let_be_like(dY, X), ZERO]


def _copies(g: Builder, size: int, before: int, after: int, mode: str, dtype: ir.DataType) -> ir.Value:
    """The matrix that says which element is copied to each place of the padded axis."""
    if min(before, after) < 0:
        raise g.refuse(f"mode '{mode}' with negative pads is not supported: crop with Slice")
    if mode not in ("edge", "reflect", "wrap"):
        raise g.refuse(f"its mode is '{mode}', which ONNX does not have")
    g.check_size(size + before + after, size)
    places = np.pad(np.arange(size), (before, after), mode=mode)  # type: ignore[call-overload]
    return g.constant(np.eye(size)[places].astype(dtype.numpy()), dtype)
