"""Follows the samples of a batch through a graph: along which axes they lie, and where they are mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.core.values.constants import whole_numbers
from onnx_cbp.graph_passes.core.values.moves import MOVES, moved_axes


@dataclass(frozen=True)
class Spread:
    """How the samples of a batch lie in a value.

    Attributes:
        axes: the axes along which they lie; empty if the value has no single samples. None if this is not known.
        mixed: the nodes that mixed several samples to make it.
        merged: those of the axes that have more than the samples, such as all steps of all sequences.
    """

    axes: frozenset[int] | None = frozenset()
    mixed: frozenset[ir.Node] = frozenset()
    merged: frozenset[int] = frozenset()


class SampleAxes:
    """Finds where the samples of a batch are in the values of a graph.

    Args:
        model: its main graph is fed with a batch, whose samples lie along the first axis of inputs, if that is open.
        types: shapes and types.
        alike: maps values to another value whose samples lie in the same way, or to None if they have no samples.
    """

    def __init__(self, model: ir.Model, types: Types, alike: Mapping[ir.Value, ir.Value | None] | None = None) -> None:
        self._types = types
        self._alike = alike or {}
        along = _samples(model.graph)
        self._known: dict[ir.Value, Spread] = {value: Spread(frozenset({axis})) for value, axis in along.items()}
        self._known.update((value, Spread(None)) for value in model.graph.inputs if value.shape is None)
        buffer = "_grad.accumulation.buffer"
        names = [value.name or "" for value in model.graph.inputs]
        self._trained = {name.removesuffix(buffer) for name in names if name.endswith(buffer)}
        self._inputs = set(model.graph.inputs)
        fed = [(types.shape(value), axis) for value, axis in along.items()]
        self._names = {size for shape, axis in fed if shape and isinstance(size := shape[axis], str)}
        self._opset = onnx_opset(model.opset_imports)
        self._outside = dict(_entrances(model.graph))

    def is_trained(self, value: ir.Value) -> bool:
        """Whether an input is a parameter with a gradient: the training API also finds it by the name of its buffer."""
        return value.name in self._trained

    def of(self, wanted: ir.Value) -> Spread:
        """How the samples lie in a value."""
        waiting, begun = [wanted], set()
        while waiting:
            value = waiting[-1]
            new = [] if value in begun or value in self._known else self._operands(value)
            begun.add(value)
            new = [each for each in new if each not in self._known and each not in begun]
            if new:
                waiting += new
                continue
            waiting.pop()
            if value not in self._known:
                self._known[value] = self._made(value)
        return self._known[wanted]

    def _operands(self, value: ir.Value) -> list[ir.Value]:
        if value in self._alike:
            same = self._alike[value]
            return [] if same is None else [same]
        if value in self._outside:
            return [self._outside[value]]
        node = value.producer()
        if node is None:
            return []
        return [*(each for each in node.inputs if each is not None), *_results(node, value)]

    def _made(self, value: ir.Value) -> Spread:
        if value in self._alike:
            same = self._alike[value]
            return Spread() if same is None else replace(self._get(same), mixed=frozenset())
        if value in self._outside:
            return self._get(self._outside[value])
        node = value.producer()
        if node is None:
            inside = value.is_graph_input() and value not in self._inputs
            return Spread(None) if inside else Spread()
        if results := _results(node, value):
            return _union([self._get(each) for each in results])
        read = [Spread() if each is None else self._get(each) for each in node.inputs]
        mixed = frozenset[ir.Node]().union(*(each.mixed for each in read))
        if node.op_type in _WITHOUT_VALUES and node.domain == "":
            return Spread()
        if any(each.axes is None for each in read):
            return Spread(None, mixed)
        call = _Call(node, value, [each.axes or frozenset() for each in read], self._types, self._opset)
        if not any(call.axes):
            return Spread(frozenset(), mixed)
        if node.op_type in MOVES and node.domain == "":
            return replace(self._moved(call, read[0]), mixed=mixed)
        rules = _RULES if node.domain == "" else _MICROSOFT if node.domain == "com.microsoft" else {}
        rule = rules.get(node.op_type, _alike)
        axes, mixes = rule(call)
        merged: frozenset[int] | None = frozenset()
        if any(each.merged for each in read):
            merged, _ = rule(replace(call, axes=[each.merged for each in read]))
            if node.op_type in _PARTS:  # perhaps of the steps, or of one of the batches
                _, mixes = rule(replace(call, axes=[(each.axes or frozenset()) - each.merged for each in read]))
        if node.op_type == "Concat" and axes and (rank := call.rank_of(value)):
            # Perhaps several batches were joined: a part that is cut out later may be one of them.
            merged = (merged or frozenset()) | {call.number("axis", 0) % rank}
        return Spread(axes, mixed | {node} if mixes else mixed, (merged or frozenset()) & (axes or frozenset()))

    def _get(self, value: ir.Value) -> Spread:
        return self._known.get(value, Spread(None))  # nothing is known about a loop

    def _moved(self, call: _Call, before: Spread) -> Spread:
        """Where samples are in a value whose axes moved, were joined or were cut."""
        node, samples = call.node, before.axes or frozenset()
        groups, sizes = moved_axes(node, self._types), self._types.shape(node.inputs[0]) if node.inputs[0] else None
        if node.op_type in ("Cast", "CastLike"):
            return before
        if groups is None or sizes is None:
            # The outermost axis stays outermost.
            return Spread(frozenset({0}) if 0 in samples else None, merged=frozenset({0}))
        axes, merged = set(), set()
        for axis in samples:
            places = [place for place, group in enumerate(groups) if axis in group]
            if len(places) > 1 and axis in before.merged:
                places = self._of_the_batch(call.output, places)
                if not places:
                    return Spread(None)
            axes.update(places)
            for place in places:
                others = [each for each in groups[place] if each != axis and sizes[each] != 1]
                if others or (axis in before.merged and len(places) == 1 and groups[place] == (axis,)):
                    merged.add(place)
        cut = {axis for axis in before.merged if sum(axis in group for group in groups) > 1}
        merged -= {place for place, group in enumerate(groups) if len(group) == 1 and group[0] in cut}
        return Spread(frozenset(axes), merged=frozenset(merged))

    def _of_the_batch(self, value: ir.Value, places: list[int]) -> list[int]:
        """If an axis with more than samples is cut into `places`, the place with the samples: the one of any size."""
        shape = self._types.shape(value) or ()
        open_sizes = [place for place in places if place < len(shape) and not isinstance(shape[place], int)]
        named = [place for place in open_sizes if shape[place] in self._names]
        return named if len(named) == 1 else open_sizes if len(open_sizes) == 1 else []


def _samples(graph: ir.Graph) -> dict[ir.Value, int]:
    """The inputs that are fed with a batch, and the axis of its samples.

    That is the first axis, if its size is open. Of other inputs it is the axis whose size has the same name as such a
    first axis: where time steps come before samples, the labels may tell. If no first size is open, all inputs whose
    first size is that of the first of them are fed with a batch.
    """
    inputs = [value for value in graph.inputs if not value.is_initializer() and value.shape is not None and value.shape]
    names = {value.name for value in graph.inputs}
    inputs = [value for value in inputs if f"{value.name}_grad.accumulation.buffer" not in names]
    sizes = [(value, list(value.shape or ())) for value in inputs]
    if not any(isinstance(shape[0], ir.SymbolicDim) for _, shape in sizes):
        batch = next((shape[0] for _, shape in sizes if len(shape) > 1), None)
        return {value: 0 for value, shape in sizes if shape[0] == batch}
    called = {size.value for _, (size, *_) in sizes if isinstance(size, ir.SymbolicDim)} - {None}
    found: dict[ir.Value, int] = {}
    for value, shape in sizes:
        named = [axis for axis, size in enumerate(shape) if isinstance(size, ir.SymbolicDim) and size.value in called]
        if isinstance(shape[0], ir.SymbolicDim):
            found[value] = 0
        elif len(named) == 1:
            found[value] = named[0]
    return found


def _entrances(graph: ir.Graph) -> Iterable[tuple[ir.Value, ir.Value]]:
    """(inside, outside) for the values that a Loop carries."""
    for node in RecursiveGraphIterator(graph):
        if (node.domain, node.op_type) == ("", "Loop") and "body" in node.attributes:
            body = node.attributes["body"].as_graph()
            for inside, outside in zip(list(body.inputs)[2:], list(node.inputs)[2:], strict=False):
                if outside is not None:
                    yield inside, outside


def _results(node: ir.Node, value: ir.Value) -> list[ir.Value]:
    """The values that the branches of an If, or the body of a Loop, return for a value."""
    if node.domain != "" or node.op_type not in ("If", "Loop"):
        return []
    place = node.outputs.index(value) + (node.op_type == "Loop")
    carried = len(node.inputs) - 2
    if node.op_type == "Loop" and place > carried:
        return []
    graphs = [each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH]
    return [graph.outputs[place] for graph in graphs if place < len(graph.outputs)]


def _union(spreads: list[Spread]) -> Spread:
    axes: frozenset[int] | None = frozenset()
    for each in spreads:
        axes = None if axes is None or each.axes is None else axes | each.axes
    mixed = frozenset[ir.Node]().union(*(each.mixed for each in spreads))
    return Spread(axes, mixed, frozenset[int]().union(*(each.merged for each in spreads)))


@dataclass(frozen=True)
class _Call:
    """A node, one of its results, and the axes of the samples in its inputs, all of which are known."""

    node: ir.Node
    output: ir.Value
    axes: list[frozenset[int]]
    types: Types
    opset: int

    def rank(self, index: int) -> int | None:
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        rank = None if value is None else self.rank_of(value)
        # A graph that declares fewer axes than those with samples is wrong.
        return None if rank is None or any(axis >= rank for axis in self.axes[index]) else rank

    def rank_of(self, value: ir.Value) -> int | None:
        shape = self.types.shape(value)
        return None if shape is None else len(shape)

    def number(self, name: str, default: int) -> int:
        given = self.node.attributes.get(name)
        return default if given is None or given.type != ir.AttributeType.INT else given.as_int()

    def numbers(self, name: str, index: int = 1) -> tuple[int, ...] | None:
        """Integers from an attribute or an input; () if there is neither, None if they are not known."""
        given = self.node.attributes.get(name)
        if given is not None:
            if given.type == ir.AttributeType.INT:
                return (given.as_int(),)
            return tuple(given.as_ints()) if given.type == ir.AttributeType.INTS else None
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            return ()
        return whole_numbers(value)


_Answer = tuple[frozenset[int] | None, bool]


def _alike(call: _Call) -> _Answer:
    """Each element of the data has its own result: the axes come from inputs of the result's rank."""
    rank = call.rank_of(call.output)
    same = [axes for index, axes in enumerate(call.axes) if axes and rank is not None and call.rank(index) == rank]
    if same:
        return frozenset().union(*same), False
    if any(0 in axes for axes in call.axes) and rank != 0:
        return frozenset({0}), False
    return None, False


def _broadcast(call: _Call) -> _Answer:
    ranks = [call.rank(index) for index in range(len(call.axes))]
    if any(rank is None for rank, axes in zip(ranks, call.axes, strict=True) if axes):
        return None, False
    known = [rank for rank in ranks if rank is not None]
    rank = call.rank_of(call.output)
    rank = max(known) if rank is None else rank
    if len(known) < len(ranks) and call.rank_of(call.output) is None:
        return None, False
    found = {axis + rank - (each or 0) for each, axes in zip(ranks, call.axes, strict=True) for axis in axes}
    return frozenset(found), False


def _reduce(call: _Call) -> _Answer:
    rank, before = call.rank(0), call.axes[0]
    if call.node.op_type.startswith("Arg"):
        axes: tuple[int, ...] | None = (call.number("axis", 0),)
    else:
        axes = call.numbers("axes")
    if not rank or axes is None:
        return None, False
    if not axes and call.number("noop_with_empty_axes", 0):
        return before, False
    gone = {axis % rank for axis in axes} if axes else set(range(rank))
    mixes = bool(before & gone)
    kept = [axis for axis in range(rank) if axis not in gone or call.number("keepdims", 1)]
    return frozenset(place for place, axis in enumerate(kept) if axis in before - gone), mixes


def _over_places(call: _Call) -> _Answer:
    """Pooling and the like: channels and samples stay separate, places are mixed."""
    return call.axes[0], bool(call.axes[0] - {0, 1})


def _over_channels(call: _Call) -> _Answer:
    """Places and samples stay separate, channels are mixed with their neighbours."""
    return call.axes[0], 1 in call.axes[0]


def _slice(call: _Call) -> _Answer:
    """A part of the samples, or all in reverse order. On a replica these are others than in the whole batch."""
    before, shape = call.axes[0], call.types.shape(call.node.inputs[0]) if call.node.inputs[0] is not None else None
    starts, ends, axes = (call.numbers(name, index) for index, name in enumerate(("starts", "ends", "axes"), 1))
    if not shape or starts is None or ends is None or axes is None:
        return before, False
    steps = call.numbers("steps", 4) or (1,) * len(starts)
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps, strict=False):
        size = shape[axis % len(shape)]
        to_the_end = end >= (size if isinstance(size, int) else _TO_THE_END)
        if axis % len(shape) in before and not ((start, step) == (0, 1) and to_the_end):
            return before, True
    return before, False


_TO_THE_END = 2**31 - 1  # exporters write this or more


def _einsum(call: _Call) -> _Answer:
    """Einsum: letters that the result does not have are summed over."""
    given = call.node.attributes.get("equation")
    text = "" if given is None or given.type != ir.AttributeType.STRING else given.as_string().replace(" ", "")
    data, arrow, result = text.partition("->")
    ranks = [call.rank(index) for index in range(len(call.axes))]
    terms: list[str] = []
    for term, rank in zip(data.split(","), ranks, strict=False):
        # The axes of an ellipsis are aligned at the last one, so their names are counted from there.
        more = 0 if rank is None else max(rank - len(term.replace("...", "")), 0)
        terms.append(term.replace("...", "".join(str(place) for place in reversed(range(min(more, 10))))))
    if len(terms) != len(ranks) or [len(term) for term in terms] != ranks:
        return None, False
    wide = max(("".join(filter(str.isdecimal, term)) for term in terms), key=len)
    letters = "".join(terms)
    result = (
        result.replace("...", wide) if arrow else wide + "".join(sorted(x for x in letters if letters.count(x) == 1))
    )
    samples = {term[axis] for term, axes in zip(terms, call.axes, strict=True) for axis in axes}
    return frozenset(place for place, letter in enumerate(result) if letter in samples), bool(samples - set(result))


def _global_pool(call: _Call) -> _Answer:
    return call.axes[0] & {0, 1}, bool(call.axes[0] - {0, 1})


def _convolution(call: _Call) -> _Answer:
    X, W = call.axes[0], call.axes[1]
    kept = (X & {0}) | ({1} if 0 in W else set())
    return frozenset(kept), bool(X - {0} or W - {0})


def _over_axis(call: _Call) -> _Answer:
    """A softmax and the like: elements along one axis are mixed."""
    rank, before = call.rank(0), call.axes[0]
    if not rank:
        return None, False
    if call.node.op_type in ("CumSum", "CumProd"):
        axes = call.numbers("", 1)
        if axes is None:
            return None, False
        together = {axis % rank for axis in axes}
    elif call.node.op_type in ("Softmax", "LogSoftmax", "Hardmax"):
        version = call.opset
        axis = call.number("axis", 1 if version < _ONE_AXIS_SINCE else -1) % rank
        together = set(range(axis, rank)) if version < _ONE_AXIS_SINCE else {axis}
    else:
        together = {call.number("axis", -1) % rank}
    return before, bool(before & together)


_ONE_AXIS_SINCE = 13


def _layer_norm(call: _Call) -> _Answer:
    rank, before = call.rank(0), call.axes[0]
    if rank is None:
        return None, False
    first = call.number("axis", -1) % rank
    together = set(range(first, rank))
    return (before if call.output is call.node.outputs[0] else before - together), bool(before & together)


def _of_each_sample(call: _Call) -> _Answer:
    """Instance and group normalisation."""
    return call.axes[0], bool(call.axes[0] - {0})


def _mean_variance(call: _Call) -> _Answer:
    rank, axes = call.rank(0), call.numbers("axes", len(call.node.inputs))
    together = {axis % rank if rank else axis for axis in axes or (0, 2, 3)}
    return call.axes[0], bool(call.axes[0] & together)


def _matmul(call: _Call) -> _Answer:
    ranks = (call.rank(0), call.rank(1))
    a_rank, b_rank = ranks
    if a_rank is None or b_rank is None:
        return None, False
    A, B = call.axes[0], call.axes[1]
    flip_a, flip_b = call.number("transA", 0), call.number("transB", 0)
    a_inner = a_rank - 1 if a_rank == 1 or not flip_a else a_rank - 2
    b_inner = 0 if b_rank == 1 else b_rank - 1 if flip_b else b_rank - 2
    rank = max(a_rank, b_rank, 2)
    found = set()
    for axis in A - {a_inner}:
        found.add(rank - 2 if axis >= a_rank - 2 else axis + rank - a_rank)
    for axis in B - {b_inner}:
        found.add(rank - 1 if axis >= b_rank - 2 else axis + rank - b_rank)
    if a_rank == 1:
        found = {axis - 1 if axis > rank - 2 else axis for axis in found}
    C = call.axes[2] if len(call.axes) > 2 and call.rank(2) is not None else frozenset()
    found |= {axis + rank - (call.rank(2) or 0) for axis in C}
    return frozenset(found), a_inner in A or b_inner in B


def _gather(call: _Call) -> _Answer:
    rank, more = call.rank(0), call.rank(1)
    if rank is None or more is None:
        return None, False
    axis = call.number("axis", 0) % rank
    data, indices = call.axes[0], call.axes[1]
    found = {each if each < axis else each + more - 1 for each in data - {axis}}
    found |= {axis + each for each in indices}
    if axis in data:
        found |= set(range(axis, axis + more))
    chosen = call.node.inputs[1]
    fixed = chosen is not None and ir.convenience.get_const_tensor(chosen) is not None
    return frozenset(found), axis in data and (more == 0 or fixed)


def _split(call: _Call) -> _Answer:
    """Parts of the samples. On a replica these are others than in the whole batch."""
    rank, before = call.rank(0), call.axes[0]
    if rank is None:
        return None, False
    whole = call.node.op_type == "Split" and len(call.node.outputs) == 1
    return before, call.number("axis", 0) % rank in before and not whole


def _gather_elements(call: _Call) -> _Answer:
    """Each element comes from its own place along one axis."""
    rank = call.rank(0)
    if rank is None:
        return None, False
    axis = call.number("axis", 0) % rank
    return (call.axes[0] - {axis}) | call.axes[1], axis in call.axes[0]


def _scatter_elements(call: _Call) -> _Answer:
    """Each element goes to its own place along one axis, where several may meet."""
    rank = call.rank(0)
    if rank is None:
        return None, False
    axis = call.number("axis", 0) % rank
    spread = call.axes[1] | call.axes[2]
    return call.axes[0] | (spread - {axis}), axis in spread


def _scatter(call: _Call) -> _Answer:
    """Slices go to their own places; if they are added up, several may meet."""
    rank, places, more = call.rank(0), call.rank(1), call.rank(2)
    given = call.node.attributes.get("reduction")
    adds = given is not None and given.type == ir.AttributeType.STRING and given.as_string() != "none"
    if not adds or call.axes[0] or rank is None or places is None or more is None:
        return _alike(call)
    indices = call.node.inputs[1]
    makers = (value.producer() for value in made_of(indices)) if indices is not None else ()
    if any(maker is not None and maker.op_type == "NonZero" for maker in makers):
        return None, False  # perhaps each sample goes back to where it came from
    inside = {axis + rank - more for axis in call.axes[2] if axis >= places - 1}
    together = any(axis < places - 1 for axis in call.axes[1] | call.axes[2])
    return frozenset(inside), together


def _non_zero(call: _Call) -> _Answer:
    """The places of elements, along the second axis."""
    return frozenset({1}) if call.axes[0] else frozenset(), False


def _compress(call: _Call) -> _Answer:
    """The elements that a condition chooses, along one axis, or of all in one row."""
    rank = call.rank(0)
    if rank is None:
        return None, False
    data, chosen = call.axes[0], bool(call.axes[1])
    if "axis" not in call.node.attributes:
        return frozenset({0}), bool(data) and not chosen
    axis = call.number("axis", 0) % rank
    return data | ({axis} if chosen else set()), axis in data and not chosen


def _gather_nd(call: _Call) -> _Answer:
    """Slices from the places that the last axis of the indices gives."""
    rank, shape = call.rank(0), call.types.shape(call.node.inputs[1]) if call.node.inputs[1] is not None else None
    if rank is None or not shape or not isinstance(shape[-1], int) or call.number("batch_dims", 0):
        return None, False
    indexed, before = shape[-1], len(shape) - 1
    data, places = call.axes[0], {axis for axis in call.axes[1] if axis < before}
    behind = {axis - indexed + before for axis in data if axis >= indexed}
    return frozenset(places | behind), any(axis < indexed for axis in data) and not places


def _scan(call: _Call) -> _Answer:
    """The results of going through samples one after the other; nothing is known for other axes."""
    body, axes = call.node.attributes.get("body"), call.numbers("scan_input_axes", len(call.node.inputs))
    if body is None or body.type != ir.AttributeType.GRAPH or call.opset < _SCAN_WITHOUT_BATCH_SINCE or axes is None:
        return None, False
    graph, number = body.as_graph(), call.number("num_scan_inputs", 1)
    states = len(call.node.inputs) - number
    if states < 0:
        return None, False
    along = False
    for place, index in enumerate(range(states, len(call.node.inputs))):
        if rank := call.rank(index):
            along |= (axes[place] if place < len(axes) else 0) % rank in call.axes[index]
    place = call.node.outputs.index(call.output)
    if not along or place >= len(graph.outputs):
        return None, False
    carried = set(graph.inputs[:states])
    # A state after the last step belongs to all samples, or to the last one.
    if place >= states and not any(value in carried for value in made_of(graph.outputs[place])):
        return None, False
    axis = call.numbers("scan_output_axes", len(call.node.inputs)) or ()
    rank = call.rank_of(call.output)
    if place < states or not rank:
        return (frozenset() if place < states else None), True
    return frozenset({(axis[place - states] if place - states < len(axis) else 0) % rank}), True


_SCAN_WITHOUT_BATCH_SINCE = 9


def _resize(call: _Call) -> _Answer:
    """More or fewer samples, interpolated between the existing ones."""
    scales = call.node.inputs[1 if call.node.op_type == "Upsample" or call.opset < _RESIZE_WITH_ROI_SINCE else 2 :][:1]
    tensor = None if not scales or scales[0] is None else ir.convenience.get_const_tensor(scales[0])
    rank = call.rank(0)
    if not rank or tensor is None:
        return call.axes[0], False
    axes = call.numbers("axes", len(call.node.inputs)) or range(rank)
    other = {axis % rank for axis, scale in zip(axes, tensor.numpy().reshape(-1), strict=False) if scale != 1}
    return call.axes[0], bool(call.axes[0] & other)


_RESIZE_WITH_ROI_SINCE = 11


def _pad(call: _Call) -> _Answer:
    """Adds samples before and after the batch that do not belong to it."""
    rank, pads, axes = call.rank(0), call.numbers("pads"), call.numbers("axes", 3)
    if not rank or pads is None or axes is None:
        return call.axes[0], False
    axes = axes or tuple(range(rank))
    padded = {axis % rank for axis, *both in zip(axes, pads, pads[len(axes) :], strict=False) if any(both)}
    return call.axes[0], bool(call.axes[0] & padded)


def _one_hot(call: _Call) -> _Answer:
    rank = call.rank(0)
    if rank is None:
        return None, False
    axis = call.number("axis", -1) % (rank + 1)
    return frozenset(each + (each >= axis) for each in call.axes[0]), False


def _loss(call: _Call) -> _Answer:
    if call.output is not call.node.outputs[0]:
        return call.axes[0], False
    given = call.node.attributes.get("reduction")
    if given is not None and given.type == ir.AttributeType.STRING and given.as_string() == "none":
        return frozenset({0}), False
    return frozenset(), True


def _recurrent(call: _Call) -> _Answer:
    first = bool(call.number("layout", 0))  # the batch is the first axis, not the second
    is_sequence = call.output is call.node.outputs[0]
    axis = 0 if first else 2 if is_sequence else 1
    return frozenset({axis}), bool(call.axes[0] - {0 if first else 1})


def _quantize(call: _Call) -> _Answer:
    """The scale depends on all elements."""
    return call.axes[0] if call.output is call.node.outputs[0] else frozenset(), True


def _unknown(call: _Call) -> _Answer:  # noqa: ARG001 - one signature for all
    return None, False


def _pick(call: _Call) -> _Answer:
    """One part of a value that is a sequence."""
    return call.axes[0], False


_BROADCASTING = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Mean", "Sum", "Where", "PRelu", "Clip", "Expand"),
    *("And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "BitShift"),
)
_RULES: dict[str, Callable[[_Call], _Answer]] = {
    **dict.fromkeys(_BROADCASTING, _broadcast),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceProd", "ReduceMax", "ReduceMin"), _reduce),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin"), _reduce),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), _over_places),
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "DeformConv"), _convolution),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "CumSum", "CumProd", "TopK", "LpNormalization"), _over_axis),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _layer_norm),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _of_each_sample),
    **dict.fromkeys(("MatMul", "FusedMatMul", "Gemm", "MatMulInteger"), _matmul),
    **dict.fromkeys(("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLossInternal"), _loss),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Split", "SplitToSequence"), _split),
    **dict.fromkeys(("ScatterElements", "Scatter"), _scatter_elements),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "SequenceAt": _pick,
    "GatherElements": _gather_elements,
    "ScatterND": _scatter,
    "Scan": _scan,
    "Pad": _pad,
    "NegativeLogLikelihoodLoss": _loss,
    "MeanVarianceNormalization": _mean_variance,
    **dict.fromkeys(("Unique", "NonMaxSuppression"), _unknown),
    "NonZero": _non_zero,
    "Compress": _compress,
    "GatherND": _gather_nd,
    "LRN": _over_channels,
    "Slice": _slice,
    "Einsum": _einsum,
    "DynamicQuantizeLinear": _quantize,
    "Gather": _gather,
    "OneHot": _one_hot,
}
#: Of ops that ONNX Runtime alone has, or has with the inputs of ONNX's.
_MICROSOFT = {
    name: _RULES[name] for name in ("FusedMatMul", "GatherND", "Pad", "SoftmaxCrossEntropyLossInternal", "Unique")
}
#: Ops that take a part of a value along an axis.
_PARTS = ("Slice", "Split", "SplitToSequence", "Gather")
#: Ops that read only the shape.
_WITHOUT_VALUES = ("Shape", "Size", "ConstantOfShape", "RandomNormalLike", "RandomUniformLike", "EyeLike")
