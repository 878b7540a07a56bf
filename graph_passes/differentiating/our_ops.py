"""Types and shapes of what our ops make, by their descriptions: not every onnx lets a schema say them."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.graph_passes.core.types import Types


def infer_ours(node: ir.Node, types: Types) -> None:
    """Write the types and shapes of a node's outputs, as far as those of its inputs are known."""
    operator = OPERATORS[node.op_type]
    given = list(zip(operator.inputs, node.inputs, strict=True))
    shapes = {each.shape: types.shape(value) for each, value in given if value is not None}
    kinds = {each.type: types.of(value) for each, value in given if value is not None}
    data = shapes.get("X")
    results = shapes.get("windows")
    if operator.has_windows and results is not None:
        shapes["kernel"] = (results[1], 1, *node.attributes["kernel_shape"].as_ints())
    elif data is not None and shapes.get("C") is None:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        shapes["C"] = (data[axis],)
    merged = shapes.get("RC")
    if merged is not None and "X" not in shapes:
        shapes["C"] = merged[1:]
    if "stash_type" in node.attributes:
        kinds["U"] = ir.DataType(node.attributes["stash_type"].as_int())
    kinds["int64"], shapes[""] = ir.DataType.INT64, ()
    for each, output in zip(operator.outputs, node.outputs, strict=True):
        kind, shape = kinds.get(each.type), shapes.get(each.shape)
        output.type = output.type or (None if kind is None else ir.TensorType(kind))
        output.shape = output.shape if output.shape is not None or shape is None else ir.Shape(shape)


def infer_all_of_ours(model: ir.Model) -> None:
    """Write those of every node of ours in the main graph that has none, and go on from what they tell."""
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
