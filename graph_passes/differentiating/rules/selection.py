"""Gradient rules of ops that read or write elements by index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute
from onnx_cbp.graph_passes.differentiating.attributes import padding_of, text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, flat, rule

flat(
    "ArgMax",
    "ArgMin",
    "Bernoulli",
    "Hardmax",
    "NonZero",
    "RandomNormalLike",
    "RandomUniformLike",
    "Shape",
    "Size",
)


@rule("OneHot")
def one_hot(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """OneHot: the values off and on each get the sum of dY over the places where they are; the indices have none."""
    indices, depth, values = node.inputs
    axis = {"axis": attribute(node, "axis", -1)}
    dtype = g.dtype(values)
    numbers = np.array([0, 1]).astype(dtype.numpy())
    off, on = (
        g.ReduceSum(g.Mul(dY, g.OneHot(indices, depth, g.constant(each, dtype), **axis)), keepdims=0)
        for each in (numbers[::-1].copy(), numbers)
    )
    return [ZERO, ZERO, g.Concat(g.Unsqueeze(off, [0]), g.Unsqueeze(on, [0]), axis=0)]


@rule("Gather")
def gather(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Gather: dX is zero, plus dY added at the places that were read, but not at the padding of an embedding."""
    X, indices = node.inputs
    axis = attribute(node, "axis", 0) % g.rank(X)
    padding = padding_of(node)
    if padding is not None and axis == 0:
        is_padding = g.Equal(indices, g.scalar(padding, indices))
        beside = list(range(g.rank(indices), g.rank(dY)))
        dY = g.Where(g.Unsqueeze(is_padding, beside) if beside else is_padding, g.scalar(0, dY), dY, like=dY)
    known, size = g.known(indices), g.shape(X)[axis]
    if known is not None and known.size == 1 and isinstance(size, int):
        place = int(known.reshape(-1)[0]) % size
        part = g.Unsqueeze(dY, [axis]) if known.ndim == 0 else dY
        for _ in range(known.ndim - 1):
            part = g.Squeeze(part, [axis])
        rest = [0] * g.rank(X)
        before, after = [*rest], [*rest]
        before[axis], after[axis] = place, size - 1 - place
        return [g.Pad(part, [*before, *after], like=X), ZERO]
    count = g.rank(indices)
    # Move the axes of the indices to the front of dY, and the indexed axis to the front of the zeros.
    front = [*range(axis, axis + count), *range(axis), *range(axis + count, g.rank(dY))]
    order = [axis, *(i for i in range(g.rank(X)) if i != axis)]
    updates = g.Transpose(dY, perm=front) if axis else dY
    zeros = g.Transpose(g.zeros_like(X), perm=order) if axis else g.zeros_like(X)
    places = _from_the_front(g, indices, X, axis)
    if g.can_scatter_add() or _differ(known):
        dX = _scatter_add(g, "ScatterND", zeros, g.Unsqueeze(places, [count]), updates, known)
    else:
        dX = g.reshape_like(_product_with_one_hot(g, places, updates, g.sizes_of(X, [axis])), zeros)
    return [g.Transpose(dX, perm=np.argsort(order).tolist(), like=X) if axis else g.let_be_like(dX, X), ZERO]


def _product_with_one_hot(g: Builder, places: ir.Value, updates: ir.Value, size: ir.Value) -> ir.Value:
    """Adds up elements with the same index by a product of matrices, for opsets without another way."""
    chosen = g.one_hot(g.Reshape(places, [-1]), g.Squeeze(size, [0]), g.dtype(updates), axis=0)
    count = g.Size(places)
    rows = g.Reshape(updates, g.Concat(g.Reshape(count, [1]), [-1], axis=0), shape=(None, None))
    return g.MatMul(chosen, rows, shape=(None, None))


def _differ(known: np.ndarray | None) -> bool:
    """Whether places are known to be counted from the front, and to be different."""
    return known is not None and known.min(initial=0) >= 0 and len(np.unique(known)) == known.size


@rule("GatherElements")
def gather_elements(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """GatherElements: dY is added at the places that were read."""
    X, indices = node.inputs
    return [_scatter_add(g, "ScatterElements", g.zeros_like(X), indices, dY, axis=attribute(node, "axis", 0)), ZERO]


@rule("GatherND")
def gather_nd(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """GatherND: dY is added at the places that were read."""
    X, indices = node.inputs
    indices = _with_batch(g, indices, attribute(node, "batch_dims", 0))
    return [_scatter_add(g, "ScatterND", g.zeros_like(X), indices, dY), ZERO]


def _with_batch(g: Builder, indices: Read, batch_dims: int) -> ir.Value:
    """The indices of a GatherND, after the place of each along the axes that it shares with the data."""
    indices = g.there(indices)
    if not batch_dims:
        return indices
    rank = g.rank(indices)
    alone = g.joined([g.sizes_of(indices, list(range(rank - 1))), [1]])  # one number at each place
    shape = [*g.shape(indices)[:-1], 1]
    places = []
    for axis in range(batch_dims):
        count = g.Squeeze(g.sizes_of(indices, [axis]), [0])
        along = g.Range(np.array(0, np.int64), count, np.array(1, np.int64), shape=[g.shape(indices)[axis]])
        places.append(g.Expand(g.column(along, axis, rank), alone, shape=shape))
    last = g.shape(indices)[-1]
    more = [*shape[:-1], last + batch_dims if isinstance(last, int) else None]
    return g.Concat(*places, indices, axis=-1, shape=more)


def _scatter_add(
    g: Builder,
    op_type: str,
    zeros: ir.Value,
    indices: Read,
    updates: ir.Value,
    known: np.ndarray | None = None,
    **attributes: Any,
) -> ir.Value:
    """Zeros, with updates added to them; places that are known to differ are only written."""
    if _differ(known):
        return g.op(op_type, zeros, indices, updates, **attributes)
    if not g.can_scatter_add():
        raise g.refuse("what meets in one place is added up by opset 16 and newer: convert with onnx.version_converter")
    return g.scatter_add(op_type, zeros, indices, updates, **attributes)


def _from_the_front(g: Builder, indices: Read, X: Read, axis: int) -> ir.Value:
    """Indices as int64, counted from the front also where they were negative."""
    known, indices = g.known(indices), g.as_type(indices, ir.DataType.INT64)
    if known is not None and (known >= 0).all():
        return indices
    size = g.Squeeze(g.sizes_of(X, [axis]), [0])
    return g.Where(g.Less(indices, 0), g.Add(indices, size), indices)


@rule("ScatterElements")
def scatter_elements(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ScatterElements: updates get dY at their places. X gets the rest, or all of dY if updates were added to it."""
    _, indices, updates = node.inputs
    axis, reduction = attribute(node, "axis", 0), text(node, "reduction", "none")
    return _scattered(
        g,
        reduction,
        dY,
        lambda: g.ScatterElements(dY, indices, g.zeros_like(updates), axis=axis),
        lambda: g.GatherElements(dY, indices, axis=axis, like=updates),
    )


@rule("ScatterND")
def scatter_nd(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ScatterND: updates get dY at their places. X gets the rest, or all of dY if updates were added to it."""
    _, indices, updates = node.inputs
    return _scattered(
        g,
        text(node, "reduction", "none"),
        dY,
        lambda: g.ScatterND(dY, indices, g.zeros_like(updates)),
        lambda: g.GatherND(dY, indices, like=updates),
    )


def _scattered(
    g: Builder, reduction: str, dY: ir.Value, rest: Callable[[], ir.Value], taken: Callable[[], ir.Value]
) -> list[InputGradient]:
    if reduction not in ("none", "add"):
        raise g.refuse(f"reduction = '{reduction}' is not supported: use 'none' or 'add'")
    return [dY if reduction == "add" else rest(), ZERO, taken()]


@rule("TopK")
def top_k(g: Builder, node: ir.Node, dY: ir.Value, _: None) -> list[InputGradient]:
    """TopK: each value came from the place that Indices names."""
    X = node.inputs[0]
    return [g.ScatterElements(g.zeros_like(X), node.outputs[1], dY, axis=attribute(node, "axis", -1)), ZERO]


@rule("Compress")
def compress(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Compress: dY goes back to the elements that were kept, in order."""
    X, condition = node.inputs
    if "axis" not in node.attributes:
        places = g.Transpose(g.NonZero(condition), perm=[1, 0])
        flat_zeros = g.Expand(g.scalar(0, X), g.Reshape(g.Size(X), [1]))
        return [g.reshape_like(g.ScatterND(flat_zeros, places, dY), X), ZERO]
    axis = attribute(node, "axis", 0) % g.rank(X)
    order = [axis, *(i for i in range(g.rank(X)) if i != axis)]
    places = g.Transpose(g.NonZero(condition), perm=[1, 0])
    dX = g.ScatterND(g.Transpose(g.zeros_like(X), perm=order), places, g.Transpose(dY, perm=order))
    return [g.Transpose(dX, perm=np.argsort(order).tolist(), like=X), ZERO]


@rule("Trilu")
def trilu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Trilu: the same triangle of dY."""
    return [g.Trilu(dY, *node.inputs[1:], upper=attribute(node, "upper", 1)), ZERO]


@rule("ReverseSequence")
def reverse_sequence(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReverseSequence: dY, reversed again."""
    axes = {name: attribute(node, name, default) for name, default in (("batch_axis", 1), ("time_axis", 0))}
    return [g.ReverseSequence(dY, node.inputs[1], **axes), ZERO]
