"""Infers types and shapes of our ops' results, since not every onnx lets a schema infer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.custom_ops.operator import AXIS_OF_OUTPUTS
from onnx_cbp.custom_ops.windows import WINDOW_ATTRIBUTES, counts_of
from onnx_cbp.graph_passes.core.types import Types


def infer_ours(node: ir.Node, types: Types) -> None:
    """Write the types and shapes of a node's outputs, as far as they follow from those of its inputs."""
    operator = OPERATORS[node.op_type]
    given = list(zip(operator.inputs, node.inputs, strict=True))
    shapes = {each.shape: types.shape(value) for each, value in given if value is not None}
    kinds = {each.type: types.of(value) for each, value in given if value is not None}
    data = shapes.get("X")
    if operator.has_windows:
        shapes |= _of_windows(node, shapes)
    elif data is not None and shapes.get("C") is None:
        axis = node.attributes["axis"].as_int()
        if -len(data) <= axis < len(data):
            shapes["C"] = (data[axis],)
    merged = shapes.get("RC")
    if merged and "X" not in shapes:
        shapes["C"] = merged[1:]
    if "stash_type" in node.attributes:
        kinds["U"] = ir.DataType(node.attributes["stash_type"].as_int())
    kinds["int64"], shapes[""] = ir.DataType.INT64, ()
    for each, output in zip(operator.outputs, node.outputs, strict=True):
        kind, shape = kinds.get(each.type), shapes.get(each.shape)
        output.type = output.type or (None if kind is None else ir.TensorType(kind))
        output.shape = output.shape if output.shape is not None or shape is None else ir.Shape(shape)


def _of_windows(node: ir.Node, shapes: Mapping[str, Sequence[Any] | None]) -> dict[str, tuple[Any, ...]]:
    """The shape of a convolution's result, or of its weight's gradient."""
    given = (node.attributes.get(name) for name in WINDOW_ATTRIBUTES)
    lists = [() if each is None else each.as_ints() for each in given]
    attributes = dict(zip(WINDOW_ATTRIBUTES, lists, strict=True))
    kernel = attributes["kernel_shape"]
    shapes = {name: shape for name, shape in shapes.items() if shape is not None and len(shape) > 1}
    data, results, outputs = shapes.get("X"), shapes.get("windows"), shapes.get("outputs")
    made: dict[str, tuple[Any, ...]] = {}
    if results is not None:
        made["kernel"] = (results[1], 1, *kernel)
    if outputs is not None and data is not None:
        made["weight"] = (outputs[1], data[1], *kernel)
    for kind in ("weight", "exchanged weight"):
        weight = shapes.get(kind)
        if weight is not None and data is not None:
            sizes = [size if isinstance(size, int) else None for size in data[2:]]
            made["outputs"] = (data[0], weight[AXIS_OF_OUTPUTS[kind]], *counts_of(sizes, attributes))
    return made


def infer_all_of_ours(model: ir.Model) -> None:
    """Write types and shapes of all our nodes in the main graph that have none, and infer what follows."""
    while True:
        untyped = [node for node in model.graph if node.domain == DOMAIN and _is_open(node)]
        if not untyped:
            return
        types = Types(model)
        for node in untyped:
            if node.op_type in OPERATORS:
                infer_ours(node, types)
        if all(_is_open(node) for node in untyped):
            return


def _is_open(node: ir.Node) -> bool:
    return any(value.type is None or value.shape is None for value in node.outputs)
