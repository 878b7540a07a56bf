"""Converts ONNX models to onnx-ir models and back; every model is checked here when it comes in."""

from __future__ import annotations

import logging
import os

import onnx
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError, foreign
from onnx_cbp.graph_passes.core.inference import subgraphs
from onnx_cbp.graph_passes.core.scopes import all_nodes, scopes
from onnx_cbp.model_files.external_data import refuse_external_data
from onnx_cbp.model_files.map_types import restore_map_types, without_map_types
from onnx_cbp.model_files.model_io import load_model
from onnx_cbp.validity import check
from onnx_cbp.validity.opsets import is_op
from onnx_cbp.validity.texts import with_remarks_as_text
from onnx_cbp.validity.walking import canonical

#: Bytes of a weight that should not be in memory more often than it must.
_LARGE = 2**20

ModelSource = onnx.ModelProto | str | os.PathLike[str]

#: Since this IR version an initializer need not be an input.
_CONSTANTS_SINCE = 4
#: The opset of ONNX that a model gets which has no node of it: whatever is put in is of that.
_FOR_NONE = 17


def read_model(model: ModelSource) -> onnx.ModelProto:
    """The model itself, or the one in the file of that path, with all its data: every verb begins here.

    Raises:
        OnnxCbpError: the file cannot be read; external data that are not in the model, or not in the file's folder.
    """
    if not isinstance(model, onnx.ModelProto):
        return load_model(model)
    refuse_external_data(model)
    return model


def to_ir(model: onnx.ModelProto) -> ir.Model:
    """The model as onnx-ir's: valid, ONNX's domain spelled "", every graph in an order in which it can be computed.

    It keeps what it changes to itself: the model stays as it is, also where the two share the data of a tensor.

    Raises:
        OnnxCbpError: the model is not valid ONNX, or has what onnx-ir would lose.
    """
    in_order = check(model)
    _refuse_sparse_subgraphs(model.graph)
    serde = logging.getLogger("onnx_ir.serde")
    disabled, serde.disabled = serde.disabled, True  # it does not know sparse initializers, and says so of each use
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
    for identifier in [each for each in result.functions if is_op(each, result.opset_imports)]:
        del result.functions[identifier]  # what is named so is the op
    _own_tensors(result)
    return result


def _say_as_declared(graph: ir.Graph, source: onnx.GraphProto) -> None:
    """Let what a graph declares more than once be what it says first, as ONNX Runtime has it.

    An input that is an output, too, and a value that is an output twice. onnx-ir goes by what is said last.
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
    """Call ONNX's domain by one of its two names everywhere, and import it everywhere."""
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
    """Call ONNX's domain "" in what is imported, in the place where it stood."""
    given = {canonical(domain): version for domain, version in imports.items()}
    given.setdefault("", default)
    imports.clear()
    imports.update(given)


class _OwnName(ir.TensorProtoTensor):
    """A tensor of the caller's model whose name here is not the caller's to see."""

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
        """Go back to the name that the caller gave it."""
        self._name = super().name or None

    @property
    def raw(self) -> onnx.TensorProto:
        """What is written: the tensor, under its name here."""
        proto = super().raw
        if (proto.name or None) == self._name:
            return proto
        renamed = onnx.TensorProto()
        renamed.CopyFrom(proto)
        renamed.name = self._name or ""
        return renamed


def _own_tensors(model: ir.Model) -> None:
    """Let no tensor write a new name into the caller's model."""
    graphs = [model.graph, *model.graph.subgraphs()]
    graphs += [subgraph for function in model.functions.values() for subgraph in function.subgraphs()]
    for graph in graphs:
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.TensorProtoTensor):
                value.const_value = tensor = _OwnName(tensor.raw)
            if tensor is not None and not value.is_graph_input():  # whatever else the graph says of it
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


def _refuse_sparse_subgraphs(graph: onnx.GraphProto) -> None:
    """Raise for what onnx-ir would lose: a sparse initializer anywhere but in the main graph."""
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                if subgraph.sparse_initializer:
                    name = subgraph.sparse_initializer[0].values.name
                    raise OnnxCbpError(
                        f"node '{node.name or node.output[0]}' has a subgraph with the sparse initializer '{name}', "
                        "which a rewrite cannot keep: make it dense"
                    )
                _refuse_sparse_subgraphs(subgraph)


def to_proto(result: ir.Model, source: onnx.ModelProto) -> onnx.ModelProto:
    """An onnx-ir model as ONNX's, with what onnx-ir does not carry of the `source` that it was made of.

    The onnx-ir model is used up: large weights that a pass made leave it one by one, so that none is there twice.

    Raises:
        OnnxCbpError: it is not valid ONNX.
    """
    _forget_names(result)
    if result.ir_version < _CONSTANTS_SINCE:  # ONNX Runtime takes no initializer there that is neither input nor read
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
    """Leave the tensors of Constant nodes the names they had: onnx-ir names each that it reads after its value."""
    lifted = {id(value.const_value) for value in model.graph.initializers.values()}
    for node in all_nodes(model):
        tensor = node.attributes["value"].value if node.op_type == "Constant" and "value" in node.attributes else None
        if isinstance(tensor, _OwnName) and id(tensor) not in lifted:
            tensor.forget()


def _take_made(model: ir.Model) -> dict[str, ir.Tensor]:
    """Take out the large weights that are no tensors of the source, which onnx-ir copies without a second copy."""
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
