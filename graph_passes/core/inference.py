"""Runs ONNX's type and shape inference on an onnx-ir model, and takes only its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.mean_variance import write_axes

#: The errors of inference when it cannot follow a model, or the model does not fit into one message.
_CANNOT_FOLLOW = (onnx.shape_inference.InferenceError, RuntimeError, ValueError, IndexError, TypeError, EncodeError)
#: Constants up to this size are passed on, since inference reads shapes from them. Larger ones (weights) only need type
#: and shape.
_SMALL = 1000
#: With up to this many numbers in a model's vectors, inference follows each number; some millions take a second.
_MOST_NUMBERS = 4_000_000
#: A longer vector of unknown numbers (a weight) is neither sizes nor places.
_MOST_UNKNOWN = 1000
#: The types of sizes and places.
_PLACES = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
#: More axes than any tensor of a network has.
MOST_AXES = 64


def infer_shapes(model: ir.Model, *, as_far_as_possible: bool = False) -> None:
    """Write the types and shapes that inference finds into the model; if inference fails, the model stays as it is.

    A sequence or an optional keeps its own type, which is never that of its elements. If the results contradict what
    the model says of values between its nodes, the results win: jax2onnx removes Transposes and leaves their shapes.

    Args:
        model: changed.
        as_far_as_possible: find as much as passes need to decide. If inference cannot follow a node
            (MeanVarianceNormalization, in some versions of onnx), keep what it finds for the others. Also find the
            ranks of Reshapes to computed shapes, which some versions leave open, and group norms, for which it infers
            nothing.
    """
    declared = without_weights(model)
    inferred = follow(declared)
    if inferred is None:
        del declared.graph.value_info[:]
        inferred = follow(declared)
    if inferred is None and as_far_as_possible:
        inferred = follow(declared, is_strict=False)
    given: dict[str, onnx.ValueInfoProto] = {}
    while as_far_as_possible and inferred is not None:
        more = (*_ranks_of_reshaped(inferred.graph), *_like_what_is_read(inferred.graph))
        more = tuple(info for info in more if info.name not in given)
        if not more:
            break
        given.update((info.name, info) for info in more)
        kept = [info for info in declared.graph.value_info if info.name not in given]
        del declared.graph.value_info[:]
        declared.graph.value_info.extend([*kept, *given.values()])
        inferred = follow(declared) or follow(declared, is_strict=False) or inferred
    if inferred is not None:
        _take(model.graph, inferred.graph)


def follow(model: onnx.ModelProto, *, is_strict: bool = True) -> onnx.ModelProto | None:
    """The model with the types and shapes that inference finds, without too much work; None if it fails."""
    write_axes(model)
    infer = partial(onnx.shape_inference.infer_shapes, check_type=is_strict, strict_mode=is_strict)
    # Of integers, onnx 1.16 would make a shape of as many sizes, also where it does not follow numbers.
    places = (info for info in _declared(model.graph) if info.type.tensor_type.elem_type in _PLACES)
    long = _hide_lengths(places, _MOST_NUMBERS)
    try:
        inferred = infer(model, data_prop=False)
        if not has_long_vectors(inferred) and not _calls(model):
            given = sum(abs(_length(info)) for info in model.graph.input)
            inferred = infer(model, data_prop=True) if given <= _MOST_NUMBERS else _follow_numbers(inferred, infer)
    except _CANNOT_FOLLOW:
        inferred = None
    for graph in (model.graph,) if inferred is None else (model.graph, inferred.graph):
        _show_lengths(graph, long)
    return inferred


def _follow_numbers(shapes: onnx.ModelProto, infer: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    """A model with shapes, with those that come of numbers, too; its inputs are long vectors.

    Inference makes a list of unknown numbers of every vector of a known length, also of a weight: of those too long to
    be sizes or places it does not hear the length. What follows from the length stands in the model already.
    """
    long = _hide_lengths(shapes.graph.input, _MOST_UNKNOWN)
    for info in (*shapes.graph.value_info, *shapes.graph.output):
        for size in info.type.tensor_type.shape.dim:
            if size.dim_param.startswith("unk__"):
                size.Clear()  # a name that inference made up; the numbers may say which it is
    inferred = infer(shapes, data_prop=True)
    _show_lengths(inferred.graph, long)
    return inferred


def _hide_lengths(declared: Iterable[onnx.ValueInfoProto], most: int) -> dict[str, int]:
    """Make the lengths unknown of vectors that are longer than `most`; returns them by name."""
    lengths = {}
    for info in declared:
        length = _length(info)
        if length > most:
            lengths[info.name] = length
            info.type.tensor_type.shape.dim[0].Clear()
    return lengths


def _show_lengths(graph: onnx.GraphProto, lengths: dict[str, int]) -> None:
    for info in _declared(graph):
        if info.name in lengths and len(info.type.tensor_type.shape.dim) == 1:
            info.type.tensor_type.shape.dim[0].dim_value = lengths[info.name]


def has_long_vectors(model: onnx.ModelProto) -> bool:
    """Whether a model with shapes has vectors of so many numbers that following each takes too long.

    Not everything is a shape: in an optimiser's state in one vector, inference would follow every number too.
    """
    return sum(_vectors(model.graph)) > _MOST_NUMBERS


def _calls(model: onnx.ModelProto) -> bool:
    """Whether a model calls functions other than ours: the sizes of what is in them are not known before."""
    functions = {(each.domain, each.name) for each in model.functions if each.domain != DOMAIN}
    waiting = [model.graph] if functions else []
    while waiting:
        graph = waiting.pop()
        if any((node.domain, node.op_type) in functions for node in graph.node):
            return True
        waiting += inner_graphs(graph)
    return False


def _declared(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.value_info
    yield from graph.output


def _vectors(graph: onnx.GraphProto) -> Iterator[int]:
    """The sizes of all one-dimensional results of nodes, in a graph and its subgraphs."""
    # 2^31 Concats give a negative number in onnx 1.16.
    yield from (abs(_length(info)) for info in (*graph.value_info, *graph.output))
    for inner in inner_graphs(graph):
        yield from _vectors(inner)


def inner_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of a graph's nodes."""
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _length(info: onnx.ValueInfoProto) -> int:
    """The length of a vector; 0 if it is not known, and of anything else."""
    sizes = info.type.tensor_type.shape.dim
    return sizes[0].dim_value if len(sizes) == 1 else 0


def _ranks_of_reshaped(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """Reshapes for which inference found only the type; their ranks are the lengths of their shape inputs."""
    known = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.input)}
    for node in graph.node:
        if (node.domain, node.op_type) != ("", "Reshape") or len(node.input) != _RESHAPE_INPUTS:
            continue
        result, sizes = known.get(node.output[0]), known.get(node.input[1])
        if result is None or sizes is None or not result.elem_type or result.HasField("shape"):
            continue
        size = sizes.shape.dim[0] if len(sizes.shape.dim) == 1 else None
        if size is not None and size.HasField("dim_value") and 0 <= size.dim_value <= MOST_AXES:
            shape = [None] * size.dim_value
            yield onnx.helper.make_tensor_value_info(node.output[0], result.elem_type, shape)


_RESHAPE_INPUTS = 2


def _like_what_is_read(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """The results of group norms, for which onnx infers nothing: they have the type and shape of their data."""
    known = {info.name: info.type for info in (*graph.value_info, *graph.input, *graph.output)}
    for node in graph.node:
        if (node.domain, node.op_type) != ("", "GroupNormalization") or not node.input:
            continue
        kind, result = known.get(node.input[0]), known.get(node.output[0])
        there = result is not None and result.tensor_type.HasField("shape")
        if kind is not None and kind.tensor_type.HasField("shape") and not there:
            yield onnx.ValueInfoProto(name=node.output[0], type=kind)


def without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model, with its large constants replaced by inputs of their types and shapes."""
    # Each kind with its own function: `ir.to_proto` looks it up each time, which takes longer than everything else.
    graph = onnx.GraphProto(name=model.graph.name or "")
    graph.input.extend(ir.serde.serialize_value(value) for value in model.graph.inputs)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            value.type = value.type if value.type is not None else ir.TensorType(tensor.dtype)
            value.shape = value.shape if value.shape is not None else ir.Shape(tensor.shape.numpy())
            if tensor.nbytes <= _SMALL:
                graph.initializer.append(ir.serde.serialize_tensor(tensor))
        if not value.is_graph_input():
            graph.input.append(ir.serde.serialize_value(value))
    for node in model.graph:
        graph.node.append(ir.serde.serialize_node(node))
        outputs = (value for value in node.outputs if value.name and value.type is not None)
        graph.value_info.extend(ir.serde.serialize_value(value) for value in outputs if not value.is_graph_output())
    graph.output.extend(ir.serde.serialize_value(value) for value in model.graph.outputs)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    functions = [ir.serde.serialize_function(function) for function in model.functions.values()]
    return onnx.ModelProto(ir_version=model.ir_version, graph=graph, opset_import=imports, functions=functions)


def _take(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    """Give the values of a graph and its subgraphs what was inferred under their names in the same graph."""
    found = {info.name: info.type for info in (*inferred.value_info, *inferred.input, *inferred.output)}
    for value in (*graph.inputs, *graph.initializers.values()):
        write_type(value, found)
    for node, proto in zip(graph, inferred.node, strict=True):
        for value in node.outputs:
            write_type(value, found)
        for inner, its in subgraphs(node, proto):
            _take(inner, its)


def write_type(value: ir.Value, found: Mapping[str, onnx.TypeProto]) -> None:
    """Give a value the type and shape that are found under its name, if they are complete."""
    proto = found.get(value.name or "")
    if proto is None or not _is_complete(proto):
        return
    kind, shape = ir.serde.deserialize_type_proto_for_type(proto), ir.serde.deserialize_type_proto_for_shape(proto)
    if kind != value.type:
        value.type = kind
    if shape is not None and shape != value.shape:
        value.shape = shape


def _is_complete(proto: onnx.TypeProto) -> bool:
    """Whether a type is complete, down to the elements of tensors."""
    which = proto.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        return _is_complete(getattr(proto, which).elem_type)
    return which in ("tensor_type", "sparse_tensor_type") and getattr(proto, which).elem_type != 0


def subgraphs(node: ir.Node, proto: onnx.NodeProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """The graphs in a node's attributes, each with its inferred version."""
    for attribute in proto.attribute:
        own = node.attributes.get(attribute.name)  # inference may have an attribute more: a default, written down
        if own is None or own.is_ref():
            continue
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield own.as_graph(), attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from zip(own.as_graphs(), attribute.graphs, strict=True)
