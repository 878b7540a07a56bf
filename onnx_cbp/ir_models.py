"""Converts ONNX models to onnx-ir models and back; every model is checked here when it comes in."""

from __future__ import annotations

import logging
import os

import onnx
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError, foreign
from onnx_cbp.graph_passes.core.inference import subgraphs
from onnx_cbp.graph_passes.core.scopes import all_nodes, scopes, write_defaults
from onnx_cbp.model_files.external_data import refuse_external_data
from onnx_cbp.model_files.map_types import restore_map_types, without_map_types
from onnx_cbp.model_files.model_io import load_model
from onnx_cbp.validity import check
from onnx_cbp.validity.opsets import is_op
from onnx_cbp.validity.texts import with_remarks_as_text
from onnx_cbp.validity.walking import called, canonical

#: Weights with more bytes should be in memory as few times as possible.
_LARGE = 2**20

ModelSource = onnx.ModelProto | str | os.PathLike[str]

#: Since this IR version an initializer need not be an input.
_CONSTANTS_SINCE = 4
#: The opset for a model that has no node of ONNX: all inserted nodes use it.
_FOR_NONE = 17


def read_model(model: ModelSource) -> onnx.ModelProto:
    """The model itself, or the one in this file, with all its data: every public function begins with this.

    Raises:
        OnnxCbpError: the file cannot be read; or external data are not in the model, or not in the file's folder.
    """
    if isinstance(model, str | os.PathLike):
        return load_model(model)
    if not isinstance(model, onnx.ModelProto):
        raise OnnxCbpError(f"{model!r} is no model: give an onnx.ModelProto, or the path of a file")
    refuse_external_data(model)
    return model


def to_ir(model: onnx.ModelProto) -> ir.Model:
    """The model as onnx-ir's: valid, with ONNX's domain written "", and with every graph in a computable order.

    Nodes of our ops have all their attributes. The caller's model is never changed, even if both share the data of a
    tensor.

    Raises:
        OnnxCbpError: the model is not valid ONNX, or has something that onnx-ir would lose.
    """
    in_order = check(model)
    _refuse_sparse_subgraphs(model.graph)
    serde = logging.getLogger("onnx_ir.serde")
    disabled, serde.disabled = serde.disabled, True  # it reports each use of a sparse initializer as unknown
    try:
        with foreign("the model is not valid ONNX"):
            source = with_remarks_as_text(without_map_types(model))
            result = ir.from_proto(source)
            _say_as_declared(result.graph, source.graph)
            if not in_order:
                for scope in scopes(result):
                    scope.sort()
    finally:
        serde.disabled = disabled
    _spell_domains(result)
    write_defaults(result)
    for identifier in [each for each in result.functions if is_op(each, result.opset_imports)]:
        del result.functions[identifier]  # what is named so is the op
    _own_tensors(result)
    _forget_negative_sizes(result)
    return result


def _say_as_declared(graph: ir.Graph, source: onnx.GraphProto) -> None:
    """If a graph declares a value more than once, let the first declaration count, as in ONNX Runtime.

    This is the case for an input that is also an output, and for a value that is an output twice. In onnx-ir, the last
    declaration counts.
    """
    said = [*zip(graph.inputs, source.input, strict=True), *zip(graph.outputs, source.output, strict=True)]
    first: dict[ir.Value, onnx.ValueInfoProto] = {}
    for value, info in said:
        if first.setdefault(value, info) is not info:
            value.type, value.shape = None, None
            ir.serde.deserialize_value_info_proto(first[value], value)
    for node, proto in zip(graph, source.node, strict=True):
        for inner, its in subgraphs(node, proto):
            _say_as_declared(inner, its)


def _spell_domains(model: ir.Model) -> None:
    """Write ONNX's domain with one of its two names everywhere, and import it everywhere."""
    for node in all_nodes(model):
        node.domain = canonical(node.domain)
    _spell_imports(model.opset_imports, _FOR_NONE)
    for function in model.functions.values():
        _spell_imports(function.opset_imports, model.opset_imports[""])
    for identifier, function in list(model.functions.items()):
        if identifier[0] != canonical(identifier[0]):
            del model.functions[identifier]
            function.domain = canonical(function.domain)
            model.functions[function.identifier()] = function


def _spell_imports(imports: dict[str, int], default: int) -> None:
    """Write ONNX's domain as "" among imports, at its original position."""
    given = {canonical(domain): version for domain, version in imports.items()}
    given.setdefault("", default)
    imports.clear()
    imports.update(given)


class _OwnName(ir.TensorProtoTensor):
    """A tensor of the caller's model that can have another name here, without changing the caller's."""

    __slots__ = ("_name",)

    def __init__(self, proto: onnx.TensorProto) -> None:
        super().__init__(proto)
        self._name: str | None = proto.name or None

    @property
    def name(self) -> str:
        return self._name or ""

    @name.setter
    def name(self, value: str | None) -> None:
        self._name = value

    def forget(self) -> None:
        """Return to the caller's name."""
        self._name = super().name or None

    @property
    def raw(self) -> onnx.TensorProto:
        """The tensor to be written, under its name here."""
        proto = super().raw
        if (proto.name or None) == self._name:
            return proto
        renamed = onnx.TensorProto()
        renamed.CopyFrom(proto)
        renamed.name = self._name or ""
        return renamed


def _own_tensors(model: ir.Model) -> None:
    """Let no tensor write a new name into the caller's model."""
    for graph in _graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.TensorProtoTensor):
                value.const_value = tensor = _OwnName(tensor.raw)
            if tensor is not None and not value.is_graph_input():  # whatever else the graph declares about it
                value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    holders = [node.attributes for node in all_nodes(model)]
    holders += [function.attributes for function in model.functions.values()]
    for attributes in holders:
        for attribute in list(attributes.values()):
            if attribute.value is None or attribute.type not in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
                continue
            one = attribute.type == ir.AttributeType.TENSOR
            tensors = [attribute.as_tensor()] if one else attribute.as_tensors()
            own = [_OwnName(t.raw) if isinstance(t, ir.TensorProtoTensor) else t for t in tensors]
            attributes[attribute.name] = ir.Attr(
                attribute.name, attribute.type, own[0] if one else own, doc_string=attribute.doc_string
            )


def _forget_negative_sizes(model: ir.Model) -> None:
    """Let a size of which a model declares a negative number be unknown, as in ONNX Runtime: old exporters write -1."""
    given = [value for graph in _graphs(model) for value in graph.inputs]
    given += [value for function in model.functions.values() for value in function.inputs]
    for value in (*given, *(value for node in all_nodes(model) for value in node.outputs)):
        if value.shape is None or not any(isinstance(size, int) and size < 0 for size in value.shape):
            continue
        value.shape = value.shape.copy()
        for axis, size in enumerate(value.shape):
            if isinstance(size, int) and size < 0:
                value.shape[axis] = None


def _graphs(model: ir.Model) -> list[ir.Graph]:
    """The main graph and all subgraphs, also of functions."""
    inner = [subgraph for function in model.functions.values() for subgraph in function.subgraphs()]
    return [model.graph, *model.graph.subgraphs(), *inner]


def _refuse_sparse_subgraphs(graph: onnx.GraphProto) -> None:
    """Raise for what onnx-ir would lose: a sparse initializer outside the main graph."""
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                if subgraph.sparse_initializer:
                    name = subgraph.sparse_initializer[0].values.name
                    raise OnnxCbpError(
                        f"{called(node)} has a subgraph with the sparse initializer '{name}', "
                        "which a rewrite cannot keep: make it dense"
                    )
                _refuse_sparse_subgraphs(subgraph)


def to_proto(result: ir.Model, source: onnx.ModelProto) -> onnx.ModelProto:
    """An onnx-ir model as ONNX's, with those parts of the `source` that onnx-ir does not carry.

    The onnx-ir model is used up: large weights that a pass made are moved out of it one by one, so that none is in
    memory twice.

    Raises:
        OnnxCbpError: it is not valid ONNX.
    """
    _forget_names(result)
    if result.ir_version < _CONSTANTS_SINCE:  # there ONNX Runtime accepts no initializer that is neither input nor read
        initializers = result.graph.initializers
        for name in [n for n, v in initializers.items() if not (v.uses() or v.is_graph_input() or v.is_graph_output())]:
            del initializers[name]
    made = _take_made(result)
    with foreign("the model is not valid ONNX"):
        model = ir.to_proto(result)
        _put_made(made, model.graph)
    # onnx-ir does not carry these three; a rewrite never touches what they hold.
    restore_map_types(model, source)
    model.training_info.extend(source.training_info)
    model.graph.sparse_initializer.extend(source.graph.sparse_initializer)
    return model


def _forget_names(model: ir.Model) -> None:
    """Give the tensors of Constant nodes their old names back: onnx-ir names each after its value."""
    lifted = {id(value.const_value) for value in model.graph.initializers.values()}
    for node in all_nodes(model):
        tensor = node.attributes["value"].value if node.op_type == "Constant" and "value" in node.attributes else None
        if isinstance(tensor, _OwnName) and id(tensor) not in lifted:
            tensor.forget()


def _take_made(model: ir.Model) -> dict[str, ir.Tensor]:
    """Take out the large weights that are no tensors of the source, so that onnx-ir does not copy them."""
    made: dict[str, ir.Tensor] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.Tensor) and tensor.nbytes > _LARGE:
            made[name] = tensor
            value.const_value = ir.ExternalTensor("-", None, None, tensor.dtype, shape=tensor.shape, name=name)
    return made


def _put_made(made: dict[str, ir.Tensor], graph: onnx.GraphProto) -> None:
    for place in graph.initializer:
        if place.name in made:
            place.ClearField("data_location")
            place.ClearField("external_data")
            place.raw_data = made.pop(place.name).tobytes()
