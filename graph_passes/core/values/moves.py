"""Ops that only move elements: from which axes of the input each axis of the result comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnx_cbp.graph_passes.core.types import FLOATS, Types
from onnx_cbp.graph_passes.core.values.constants import whole_numbers

#: For each axis of a result, the axes of the input from which it has its elements, the outermost first.
Axes = tuple[tuple[int, ...], ...]
Size = int | str | None

MOVES = ("Identity", "Cast", "CastLike", "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Transpose")
_MOST_MOVES = 4  # between the result of a convolution and the data of a batch norm


def moved_axes(node: ir.Node, types: Types) -> Axes | None:
    """Where the axes of a node's first input are in its result; None if it is not one of MOVES, or this is not known.

    If several axes of the result share an axis of the input, each of them has it. Only Casts between floats count.
    """
    if node.domain != "" or node.op_type not in MOVES or not node.inputs or node.inputs[0] is None:
        return None
    before = types.shape(node.inputs[0])
    if before is None:
        return None
    rank = len(before)
    if node.op_type in ("Cast", "CastLike") and not _between_floats(node, types):
        return None
    if node.op_type in ("Identity", "Cast", "CastLike"):
        return tuple((axis,) for axis in range(rank))
    if node.op_type == "Transpose":
        given = node.attributes.get("perm")
        order = tuple(reversed(range(rank))) if given is None else tuple(given.as_ints())
        return tuple((axis,) for axis in order) if sorted(order) == list(range(rank)) else None
    named = tuple(size if size is not None else f"?{axis}" for axis, size in enumerate(before))
    after = _sizes_after(node, named, types)
    return None if after is None else regroup(named, after)


def arrangements(X: ir.Value, types: Types) -> Iterator[ir.Value]:
    """X, and the values before it that have its elements in another order of axes, or in another type."""
    yield X
    value, graph = X, None
    for _ in range(_MOST_MOVES):
        node = value.producer()
        if node is None or moved_axes(node, types) is None or (graph is not None and node.graph is not graph):
            return
        graph, first = node.graph, node.inputs[0]
        assert first is not None
        value = first
        yield value


def _between_floats(node: ir.Node, types: Types) -> bool:
    value = node.inputs[0]
    return value is not None and types.of(value) in FLOATS and types.of(node.outputs[0]) in FLOATS


def _sizes_after(node: ir.Node, before: tuple[Size, ...], types: Types) -> Sequence[Size] | None:
    """The sizes of a result, with the symbols of its input; None if the rank is not known."""
    rank = len(before)
    known = types.shape(node.outputs[0])
    if node.op_type == "Flatten":
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        axis += rank if axis < 0 else 0
        return (_all(before[:axis]), _all(before[axis:])) if 0 <= axis <= rank else None
    wanted = _constant(node, {"Reshape": "shape"}.get(node.op_type, "axes"))
    if node.op_type == "Reshape":
        if wanted is None:
            return known
        zero_is_zero = "allowzero" in node.attributes and node.attributes["allowzero"].as_int()
        if any(size == 0 and (zero_is_zero or axis >= rank) for axis, size in enumerate(wanted)):
            return None
        sizes: list[Size] = [before[axis] if size == 0 else size for axis, size in enumerate(wanted)]
        rest = sizes.index(-1) if -1 in sizes else None
        if rest is not None:
            said = known[rest] if known is not None and rest < len(known) else None
            sizes[rest] = said if isinstance(said, int) else None
        return sizes
    if wanted is None:
        return known
    if node.op_type == "Squeeze" and wanted and not rank:  # there is no axis to take away
        return None
    if node.op_type == "Squeeze":
        gone = {axis % rank for axis in wanted} if wanted else {a for a, size in enumerate(before) if size == 1}
        return [size for axis, size in enumerate(before) if axis not in gone]
    new = {axis % (rank + len(wanted)) for axis in wanted}
    waiting = iter(before)
    return [1 if axis in new else next(waiting, None) for axis in range(rank + len(wanted))]


def _all(sizes: Sequence[Size]) -> Size:
    """The size of axes that are joined to one; None if it is neither one of theirs nor a number."""
    product = 1
    for size in sizes:
        if not isinstance(size, int):
            return size if len(sizes) == 1 else None
        product *= size
    return product


def _constant(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """An attribute, or else the second input, of integers."""
    given = node.attributes.get(name)
    if given is not None:
        return tuple(given.as_ints())
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None:
        return () if node.op_type == "Squeeze" else None
    return whole_numbers(value)


def regroup(before: Sequence[Size], after: Sequence[Size]) -> Axes | None:
    """For each axis of a reshaped value, the axes from which it has its elements; None if the sizes do not fit.

    Equal symbols mean equal sizes; None stands for whatever is left. If an axis is cut, or the sizes do not say which
    axes go where, an axis appears in several.
    """
    left = list(before)
    found: dict[int, tuple[int, ...]] = {}
    ins, outs = _match(left, after, list(range(len(before))), list(range(len(after))), found)
    ins, outs = _match(left, after, ins[::-1], outs[::-1], found)
    rest = tuple(sorted(ins))
    if not outs and any(left[axis] != 1 for axis in rest):
        return None
    for place, axis in enumerate(sorted(outs)):  # the outermost axis stays outermost
        found[axis] = rest if place == 0 else rest[1:] or rest
    return tuple(found[axis] for axis in range(len(after)))


def _match(
    left: list[Size], after: Sequence[Size], ins: list[int], outs: list[int], found: dict[int, tuple[int, ...]]
) -> tuple[list[int], list[int]]:
    """Match axes from one end, as far as the sizes allow: write them into `found`, and return those that are left over.

    `left` has the sizes of the axes before; if an axis is cut, its size becomes what is left of it.
    """
    while outs:
        size = after[outs[0]]
        if size == 1:
            same = ins[:1] if ins and left[ins[0]] == 1 else []
            found[outs[0]] = tuple(same)
            ins, outs = ins[len(same) :], outs[1:]
            continue
        number = _leading(left, ins, size)
        if number:
            found[outs[0]] = tuple(sorted(ins[:number]))
            ins, outs = ins[number:], outs[1:]
            continue
        have = left[ins[0]] if ins else None
        if not (isinstance(have, int) and isinstance(size, int) and size > 1 and have % size == 0):
            break
        found[outs[0]] = (ins[0],)
        left[ins[0]] = have // size
        outs = outs[1:]
    return ins, outs


def _leading(left: list[Size], ins: list[int], size: Size) -> int:
    """How many of the first axes together have this size; 0 if none do."""
    product: Size = 1
    for number, axis in enumerate(ins, 1):
        have = left[axis]
        if have == 1:
            continue
        if product == 1:
            product = have
        elif isinstance(product, int) and isinstance(have, int):
            product *= have
        else:
            return 0
        if product == size and size is not None:
            return number
        if not isinstance(product, int) or (isinstance(size, int) and product > size):
            return 0
    return 0
