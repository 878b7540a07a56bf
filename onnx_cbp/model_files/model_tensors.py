"""Finds all tensors of a model, and separates the data of large ones from the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx

#: Tensors with at most this many elements stay, since code that reads shapes may need their values.
_SMALL = 255


@dataclass(frozen=True)
class Large:
    """A large tensor of a model.

    Attributes:
        tensor: the tensor.
        place: its placeholder in the skeleton, with its name, type and dims.
        holder: what it belongs to: "graph" (an initializer of the main graph), "subgraph" (one of another), or "node".
    """

    tensor: onnx.TensorProto
    place: onnx.TensorProto
    holder: str


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor: initializers, the two of each sparse one, attributes; of subgraphs, functions and training info."""
    for graph in (model.graph, *(g for info in model.training_info for g in (info.initialization, info.algorithm))):
        yield from _of_graph(graph)
    for function in model.functions:
        yield from _of_attributes(function.attribute_proto)
        for node in function.node:
            yield from _of_attributes(node.attribute)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        if node.attribute:
            yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        # By the fields that are set, not by the declared type, since other readers may use the former.
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ):
            yield from (sparse.values, sparse.indices)
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _of_graph(graph)


def without_large(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Large]]:
    """A copy of a model without the data of its large tensors, and these tensors; nothing large is copied.

    The large tensors of sparse initializers and of default values of functions' attributes stay.
    """
    skeleton, large = onnx.ModelProto(), list[Large]()
    for field, value in model.ListFields():
        if field.name == "graph":
            _copy_graph(model.graph, skeleton.graph, large, "graph")
        elif field.name == "functions":
            for function in model.functions:
                _copy_nodes_of(function, skeleton.functions.add(), large)
        else:
            _copy_field(skeleton, field.name, value)
    return skeleton, large


def _copy_graph(source: onnx.GraphProto, target: onnx.GraphProto, large: list[Large], holder: str) -> None:
    for tensor in source.initializer:
        _copy_tensor(tensor, target.initializer.add(), large, holder)
    _copy_nodes_of(source, target, large)


def _copy_nodes_of(
    source: onnx.GraphProto | onnx.FunctionProto, target: onnx.GraphProto | onnx.FunctionProto, large: list[Large]
) -> None:
    for field, value in source.ListFields():
        if field.name not in ("initializer", "node"):
            _copy_field(target, field.name, value)
    for node in source.node:
        copy = target.node.add()
        if not any(_is_heavy(attribute) for attribute in node.attribute):
            copy.CopyFrom(node)
            continue
        for field, value in node.ListFields():
            if field.name != "attribute":
                _copy_field(copy, field.name, value)
        for attribute in node.attribute:
            _copy_attribute(attribute, copy.attribute.add(), large)


def _is_heavy(attribute: onnx.AttributeProto) -> bool:
    if attribute.HasField("g") or attribute.graphs:
        return True
    return (attribute.HasField("t") and is_large(attribute.t)) or any(map(is_large, attribute.tensors))


def _copy_attribute(source: onnx.AttributeProto, target: onnx.AttributeProto, large: list[Large]) -> None:
    if not _is_heavy(source):
        target.CopyFrom(source)
        return
    for field, value in source.ListFields():
        if field.name == "t":
            _copy_tensor(source.t, target.t, large, "node")
        elif field.name == "tensors":
            for tensor in source.tensors:
                _copy_tensor(tensor, target.tensors.add(), large, "node")
        elif field.name == "g":
            _copy_graph(source.g, target.g, large, "subgraph")
        elif field.name == "graphs":
            for graph in source.graphs:
                _copy_graph(graph, target.graphs.add(), large, "subgraph")
        else:
            _copy_field(target, field.name, value)


def _copy_tensor(source: onnx.TensorProto, target: onnx.TensorProto, large: list[Large], holder: str) -> None:
    if not is_large(source):
        target.CopyFrom(source)
        return
    for name in ("name", "data_type", "doc_string"):
        if source.HasField(name):
            setattr(target, name, getattr(source, name))
    target.dims.extend(source.dims)
    if hasattr(source, "metadata_props"):  # since ONNX 1.17
        target.metadata_props.extend(source.metadata_props)
    large.append(Large(source, target, holder))


def _copy_field(target: Any, name: str, value: Any) -> None:
    if hasattr(value, "extend"):
        getattr(target, name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    else:
        setattr(target, name, value)


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether the dims of a numeric tensor say that it has many elements."""
    return tensor.data_type != onnx.TensorProto.STRING and math.prod(tensor.dims) > _SMALL
