"""Finds what a graph declares wrongly of the values between its nodes.

A graph whose input was given a free batch size after its export still has the old number in the shapes between its
nodes. Exporters forget shapes too: jax2onnx removes Transposes and leaves what was declared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
import onnx_ir as ir

from onnx_cbp.graph_passes.core.inference import follow, inner_graphs, subgraphs, without_weights, write_type

#: Two sizes for what is free. Both have whole halves and thirds, several times over, as networks take them.
_SIZES = (2**6 * 3, 2**7 * 3)


def drop_wrong_shapes(model: ir.Model) -> bool:
    """Correct what the model declares of nodes' results if inference proves it wrong; returns whether there was any.

    A declaration is wrong if inference without it finds another type, number of axes or size, or a size that an input
    has by name where a number is declared. Through some ops, inference follows no names. Where it finds no size, a
    number is wrong if inference finds another one once the inputs' free sizes are numbers; it is then unknown. If any
    number is wrong, those for which inference finds none at all are unknown, too.
    """
    declared = without_weights(model)
    _forget_shapes(declared.graph)
    inferred = _follow(declared)
    if inferred is None:
        return False
    free = [size for info in declared.graph.input for size in info.type.tensor_type.shape.dim if _number(size) is None]
    names = {size.dim_param for size in free} - {""}
    corrected = False
    for value, (right,) in _results(model.graph, inferred.graph):
        if value.name and right is not None and _is_wrong(ir.serde.serialize_value(value).type, right, names):
            write_type(value, {value.name: right})
            corrected = True
    if free and any(_is_believed(value, right) for value, (right,) in _results(model.graph, inferred.graph)):
        corrected |= _forget_what_varies(model, declared, free, all_unconfirmed=corrected)
    return corrected


def _follow(model: onnx.ModelProto) -> onnx.ModelProto | None:
    return follow(model) or follow(model, is_strict=False)


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Remove what a graph and its subgraphs declare of their nodes' results, but for the types of outputs."""
    del graph.value_info[:]
    for output in graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    for inner in inner_graphs(graph):
        _forget_shapes(inner)


def _results(
    graph: ir.Graph, *inferred: onnx.GraphProto
) -> Iterator[tuple[ir.Value, tuple[onnx.TypeProto | None, ...]]]:
    """Each result of a node, also in subgraphs, and its type in each inferred version of the graph."""
    found = [{info.name: info.type for info in (*each.value_info, *each.output)} for each in inferred]
    for node, *protos in zip(graph, *(each.node for each in inferred), strict=True):
        for value in node.outputs:
            yield value, tuple(types.get(value.name or "") for types in found)
        for pairs in zip(*(subgraphs(node, proto) for proto in protos), strict=True):
            yield from _results(pairs[0][0], *(its for _, its in pairs))


def _is_wrong(declared: onnx.TypeProto, right: onnx.TypeProto, free: Collection[str]) -> bool:
    """Whether a declared tensor type is not the right one, in which the sizes named in `free` may be any."""
    if not (declared.HasField("tensor_type") and right.HasField("tensor_type")):
        return False
    a, b = declared.tensor_type, right.tensor_type
    if a.elem_type and b.elem_type and a.elem_type != b.elem_type:
        return True
    if not (a.HasField("shape") and b.HasField("shape")):
        return False
    if len(a.shape.dim) != len(b.shape.dim):
        return True
    return any(
        _number(said) is not None and (size.dim_param in free or _number(size) not in (None, _number(said)))
        for said, size in zip(a.shape.dim, b.shape.dim, strict=True)
    )


def _is_believed(value: ir.Value, right: onnx.TypeProto | None) -> bool:
    """Whether the model says a size of a value, in numbers, that inference does not find."""
    return any(isinstance(said, int) and found is None for said, found in _pairs(value, right))


def _forget_what_varies(
    model: ir.Model,
    declared: onnx.ModelProto,
    free: Collection[onnx.TensorShapeProto.Dimension],
    *,
    all_unconfirmed: bool,
) -> bool:
    """Make sizes unknown that are not what inference finds for two sizes of the inputs; returns whether any was wrong.

    Args:
        model: changed.
        declared: the model without what it declares of nodes' results; changed.
        free: the sizes of its inputs that are not fixed.
        all_unconfirmed: those for which inference finds nothing, too, as if any was wrong.
    """
    versions = []
    for number in _SIZES:
        for size in free:
            size.dim_value = number
        versions.append(_follow(declared))
    graphs = [version.graph for version in versions if version is not None]
    if len(graphs) < len(_SIZES):
        return False
    wrong: list[tuple[ir.Value, int]] = []
    unconfirmed: list[tuple[ir.Value, int]] = []
    for value, types in _results(model.graph, *graphs):
        sizes = [[found for _, found in _pairs(value, right)] for right in types]
        for axis, (said, *found) in enumerate(zip(value.shape or (), *sizes, strict=False)):
            if isinstance(said, int) and set(found) != {said}:
                (unconfirmed if None in found else wrong).append((value, axis))
    for value, axis in wrong + (unconfirmed if wrong or all_unconfirmed else []):
        value.shape = ir.Shape([None if i == axis else size for i, size in enumerate(value.shape or ())])
    return bool(wrong)


def _pairs(value: ir.Value, right: onnx.TypeProto | None) -> list[tuple[object, int | None]]:
    """Each size that a value is declared with, and the number that inference finds; none if it finds another rank."""
    if value.shape is None:
        return []
    found: list[int | None] = [None] * len(value.shape)
    if right is not None and right.tensor_type.HasField("shape"):
        found = [_number(size) for size in right.tensor_type.shape.dim]
    return list(zip(value.shape, found, strict=True)) if len(found) == len(value.shape) else []


def _number(size: onnx.TensorShapeProto.Dimension) -> int | None:
    return size.dim_value if size.HasField("dim_value") else None
