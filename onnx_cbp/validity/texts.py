"""Checks that names are valid text, and repairs comments that are not."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from google.protobuf.message import Message

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.walking import graphs, scopes


def check_texts(model: onnx.ModelProto) -> None:
    """Check the names of functions, nodes, values, attributes and opsets.

    Raises:
        OnnxCbpError: one is not UTF-8, as ONNX asks for; protobuf reads it all the same, as bytes.
    """
    for name in _names(model):
        if not isinstance(name, str):
            raise OnnxCbpError(f"the model is not valid ONNX: the name {name!r} is not UTF-8")


def _names(model: onnx.ModelProto) -> Iterator[object]:
    yield from (each.domain for each in model.opset_import)
    for scope in scopes(model):
        if isinstance(scope, onnx.FunctionProto):
            yield from (scope.name, scope.domain, getattr(scope, "overload", ""), *scope.input, *scope.output)
            yield from (each.domain for each in scope.opset_import)
        for graph in graphs(scope):
            if isinstance(graph, onnx.GraphProto):
                yield graph.name
                for named in (graph.input, graph.output, graph.value_info, graph.initializer):
                    yield from (each.name for each in named)
            for node in graph.node:
                yield from (node.name, node.op_type, node.domain, getattr(node, "overload", ""))
                yield from (*node.input, *node.output)
                yield from (attribute.name for attribute in node.attribute)


def with_remarks_as_text(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model; where a doc_string, or whatever else no op reads, is not UTF-8, a copy with a mark in its place.

    Tools of other decades write them in the code page of their country. ONNX Runtime loads such a model, and nothing
    that is made of it can be written.
    """
    if all(isinstance(text, str) for text in _remarks(model)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _decode(copy)
    return copy


def _remarks(model: onnx.ModelProto) -> Iterator[object]:
    yield from (model.producer_name, model.producer_version, model.domain, model.doc_string, *_properties(model))
    for scope in scopes(model):
        for graph in graphs(scope):
            yield from (graph.doc_string, *_properties(graph))
            infos = list(graph.value_info) if hasattr(graph, "value_info") else []  # functions have had it since 1.16
            if isinstance(graph, onnx.GraphProto):
                infos += [*graph.input, *graph.output]
                yield from (text for tensor in graph.initializer for text in (tensor.doc_string, *_properties(tensor)))
            for info in infos:
                yield from (info.doc_string, info.type.denotation, *_properties(info))
                yield from (text for dim in _dims(info.type) for text in (dim.denotation, dim.dim_param))
            for node in graph.node:
                yield from (node.doc_string, *_properties(node))
                for attribute in node.attribute:
                    yield attribute.doc_string
                    if attribute.HasField("t"):
                        yield from (attribute.t.doc_string, *_properties(attribute.t))


def _properties(holder: Message) -> Iterator[object]:
    for entry in getattr(holder, "metadata_props", ()):  # which are new in onnx 1.17, but for the model's
        yield from (entry.key, entry.value)


def _dims(kind: onnx.TypeProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        yield from getattr(kind, which).shape.dim
    elif which in ("sequence_type", "optional_type"):
        yield from _dims(getattr(kind, which).elem_type)


def _decode(message: Message) -> None:
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in [value] if isinstance(value, Message) else value:
                _decode(each)
        elif field.type == field.TYPE_STRING and isinstance(value, bytes):
            setattr(message, field.name, value.decode("utf-8", "replace"))
