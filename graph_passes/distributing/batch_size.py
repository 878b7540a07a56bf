"""Finds where a graph computes with the batch size, which is different on each replica."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.constants import whole_numbers
from onnx_cbp.graph_passes.core.values.sample_axes import SampleAxes

#: For ops that read some inputs as sizes, places or conditions: the positions of the inputs that they read as numbers.
_NUMBERS_AT: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("AffineGrid", "CenterCropPad", "Compress", "CumSum", "Dropout", "Expand", "Gather"), (0,)),
    **dict.fromkeys(("GatherElements", "GatherND", "MaxUnpool", "ReduceL1", "ReduceL2", "ReduceLogSum"), (0,)),
    **dict.fromkeys(("ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), (0,)),
    **dict.fromkeys(("ReduceSumSquare", "Reshape", "Resize", "SequenceAt", "Slice", "Split", "Squeeze"), (0,)),
    **dict.fromkeys(("SplitToSequence", "Tile", "TopK", "Trilu", "Unsqueeze", "Upsample"), (0,)),
    **dict.fromkeys(("Pad", "OneHot"), (0, 2)),
    **dict.fromkeys(("ScatterElements", "ScatterND"), (0, 2)),
    **dict.fromkeys(("ConstantOfShape", "EyeLike", "If", "Loop", "Range", "Scan", "Shape", "Size"), ()),
}
#: Ops that give each element of their first input its own result, in the same order.
_IN_PLACE = {"Abs", "Cast", "CastLike", "Ceil", "Exp", "Flatten", "Floor", "Identity", "Log", "Neg", "Reciprocal"}
_IN_PLACE |= {"Reshape", "Round", "Sqrt", "Squeeze", "Unsqueeze"}
_BROADCASTING = {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Where", "Equal", "Greater", "Less"}
_BROADCASTING |= {"And", "Or", "Not", "GreaterOrEqual", "LessOrEqual"}
#: The places of those elements of a value that depend on the number of samples.
_Places = frozenset[int]
_ALL = frozenset({-1})


@dataclass(frozen=True)
class _Count:
    """Which elements of a value depend on the number of samples, and the node that reads that number from the data."""

    places: _Places
    source: ir.Node


def refuse_batch_size(model: ir.Model, samples: SampleAxes, types: Types, needed: Collection[ir.Node]) -> None:
    """Refuse a graph in which a number that depends on the batch size changes the values of samples.

    An example is `h / Shape(h)[0]`, where each replica would divide by the number of its own samples. Allowed are
    shapes and other sizes that depend on it, such as those for a Reshape, an Expand or a ConstantOfShape, and a loss,
    which is a single number. The other elements of a shape, such as the number of channels, may be used for anything.

    Args:
        model: before anything in it is replaced.
        samples: where the samples are in its values.
        types: shapes and types.
        needed: the nodes of its main graph to check.

    Raises:
        OnnxCbpError: there is such a node; one line.
    """
    counts: dict[ir.Value, _Count] = {}
    waiting: list[ir.Node] = []
    for node in RecursiveGraphIterator(model.graph):
        for place, count in _taken(node, samples, types):
            counts[place] = count
            waiting += [use.node for use in place.uses()]
    while waiting:
        node = waiting.pop()
        if node.graph is model.graph and node not in needed:
            continue
        read = [None if value is None else counts.get(value) for value in _numbers(node)]
        source = next((each.source for each in read if each is not None), None)
        if source is None:
            continue
        for value in node.outputs:
            axes = samples.of(value).axes
            if axes:
                raise OnnxCbpError(_reason(node, source))
            before = counts.get(value)
            places = _places(node, value, read, types) | (frozenset() if before is None else before.places)
            if axes is not None and places and (before is None or places != before.places):
                counts[value] = _Count(places, source)
                waiting += [use.node for use in value.uses()]


def _taken(node: ir.Node, samples: SampleAxes, types: Types) -> Iterator[tuple[ir.Value, _Count]]:
    """The result of a Shape or a Size of a value with samples."""
    if node.domain != "" or node.op_type not in ("Shape", "Size") or not node.inputs or node.inputs[0] is None:
        return
    axes = samples.of(node.inputs[0]).axes
    if not axes:
        return
    if node.op_type == "Size":
        yield node.outputs[0], _Count(frozenset({0}), node)
        return
    shape = types.shape(node.inputs[0])
    bounds = [node.attributes.get(name) for name in ("start", "end")]
    start, end = (None if each is None else each.as_int() for each in bounds)
    if shape is not None:
        kept = range(len(shape))[start:end]
        places = frozenset(place for place, axis in enumerate(kept) if axis in axes)
        if places:
            yield node.outputs[0], _Count(places, node)


def _numbers(node: ir.Node) -> list[ir.Value | None]:
    """The inputs of a node that are read as numbers; None in place of the others."""
    at = _NUMBERS_AT.get(node.op_type) if node.domain == "" else None
    return [value if at is None or index in at else None for index, value in enumerate(node.inputs)]


def _places(node: ir.Node, result: ir.Value, read: list[_Count | None], types: Types) -> _Places:
    """The elements of a result that depend on the number of samples."""
    places = [frozenset[int]() if count is None else count.places for count in read]
    if node.domain != "" or _ALL in places:
        return _ALL
    if node.op_type in _IN_PLACE:
        return places[0]
    lengths = [None if value is None else _length(value, types) for value in node.inputs]
    if node.op_type == "Gather" and lengths[0] is not None:
        indices = _integers(node, 1)
        if indices is not None:
            return frozenset(at for at, index in enumerate(indices) if index % lengths[0] in places[0])
    if node.op_type == "Slice" and lengths[0] is not None:
        kept = _slice(node, lengths[0])
        if kept is not None:
            return frozenset(at for at, index in enumerate(kept) if index in places[0])
    if node.op_type in ("Concat", "Split"):
        every = lengths if node.op_type == "Concat" else [_length(value, types) for value in node.outputs]
        known = [length for length in every if length is not None]
        if len(known) == len(every):
            starts = [sum(known[:index]) for index in range(len(known))]
            if node.op_type == "Concat":
                return frozenset(start + at for start, of in zip(starts, places, strict=True) for at in of)
            first = node.outputs.index(result)
            return frozenset(at - starts[first] for at in places[0] if 0 <= at - starts[first] < known[first])
    if node.op_type in _BROADCASTING:
        whole = _length(result, types)
        fits = (not of or length == whole for of, length in zip(places, lengths, strict=True))
        if whole is not None and all(fits):
            return frozenset[int]().union(*places)
    return _ALL


def _length(value: ir.Value, types: Types) -> int | None:
    """How many elements a vector or a single number has."""
    shape = types.shape(value)
    if shape is None or len(shape) > 1:
        return None
    size = shape[0] if shape else 1
    return size if isinstance(size, int) and size > 0 else None


def _integers(node: ir.Node, index: int) -> list[int] | None:
    """A constant input of integers."""
    value = node.inputs[index] if index < len(node.inputs) else None
    numbers = whole_numbers(value)
    return None if numbers is None else list(numbers)


def _slice(node: ir.Node, length: int) -> range | None:
    """The elements of a vector that a Slice keeps."""
    if "starts" in node.attributes:
        bounds = [[*node.attributes[name].as_ints()] for name in ("starts", "ends") if name in node.attributes]
    else:
        bounds = [found for index in (1, 2) if (found := _integers(node, index)) is not None]
    steps = _integers(node, 4) if len(node.inputs) > 4 else [1]  # starts, ends, axes, steps
    if [len(each) for each in bounds] != [1, 1] or not steps or not steps[0]:
        return None
    return range(length)[bounds[0][0] : bounds[1][0] : steps[0]]


def _reason(node: ir.Node, source: ir.Node) -> str:
    data = source.inputs[0]
    name = "its input" if data is None else f"'{data.name}'"
    return (
        f"node '{label(node)}' ({node.op_type}) calculates with the number of samples in a batch, which node "
        f"'{label(source)}' ({source.op_type}) takes of {name}: each replica would calculate with that of its own "
        "samples: let a ReduceMean make the mean, or name the batch norms to synchronize"
    )
