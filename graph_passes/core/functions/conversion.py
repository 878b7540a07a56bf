"""Says whether nodes of one opset of ONNX mean the same in another, and adapts those that need it."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import label

#: Ops whose versions since opset 7 differ only in the accepted types, and otherwise in what their signatures show.
_STABLE = frozenset(
    {"Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose"}
    | {"Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "Gemm", "GlobalAveragePool"}
    | {"GlobalMaxPool", "Greater", "HardSigmoid", "Identity", "InstanceNormalization", "LeakyRelu", "Less", "Log"}
    | {"LRN", "MatMul", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "PRelu", "Reciprocal", "Relu", "Reshape"}
    | {"Selu", "Shape", "Sigmoid", "Sin", "Size", "Slice", "Softplus", "Softsign", "Sqrt", "Squeeze", "Sub", "Sum"}
    | {"Tanh", "Tile", "Transpose", "Unsqueeze", "Where", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"}
)
_BATCH_NORM = "BatchNormalization"
_FIRST = 7  # broadcasting was different before
_TRAINING_MODE_SINCE = 14
_SPATIAL_UNTIL = 9


def obstacle(nodes: Iterable[ir.Node], old: int, new: int) -> str | None:
    """Why nodes of opset `old` cannot be used in opset `new`, in one clause; None if they can.

    `adapt` changes those that need it.
    """
    for node in nodes if old != new else ():
        if node.domain == "" and not _means_the_same(node, old, new):
            return f"node '{label(node)}' ({node.op_type}) is of opset {old}, and may mean something else in {new}"
    return None


def adapt(nodes: Iterable[ir.Node], new: int) -> None:
    """Adapt nodes without an obstacle to opset `new`."""
    for node in nodes:
        if (node.domain, node.op_type) == ("", _BATCH_NORM):
            if new < _TRAINING_MODE_SINCE:
                node.attributes.pop("training_mode", None)
            if new >= _SPATIAL_UNTIL:
                node.attributes.pop("spatial", None)


def _means_the_same(node: ir.Node, old: int, new: int) -> bool:
    try:
        before, after = (onnx.defs.get_schema(node.op_type, version, "") for version in (old, new))
    except onnx.defs.SchemaError:
        return False
    if before.since_version == after.since_version:
        return not before.deprecated
    if min(old, new) < _FIRST or before.deprecated or after.deprecated:
        return False
    if node.op_type == _BATCH_NORM:
        return _is_same_batch_norm(node, old, new)
    return node.op_type in _STABLE and _takes_what(after, before, node)


def _is_same_batch_norm(node: ir.Node, old: int, new: int) -> bool:
    """Its inference form was always the same; its training form changed in opset 14."""
    if min(old, new) >= _TRAINING_MODE_SINCE:
        return True
    training, spatial = node.attributes.get("training_mode"), node.attributes.get("spatial")
    if any(each is not None and (each.is_ref() or each.type != ir.AttributeType.INT) for each in (training, spatial)):
        return False
    trains = training is not None and training.as_int() != 0
    return len(node.outputs) == 1 and not trains and (spatial is None or spatial.as_int() == 1)


def _takes_what(after: onnx.defs.OpSchema, before: onnx.defs.OpSchema, node: ir.Node) -> bool:
    """Whether a node of one version of an op is also valid in the other, with the same defaults."""
    used = len(node.inputs)
    inputs = [[(each.name, each.option) for each in schema.inputs[:used]] for schema in (before, after)]
    known = {name: attribute for name, attribute in after.attributes.items() if name in before.attributes}
    defaults = all(
        name in known or (attribute.required is False and _is_none(attribute))
        for name, attribute in before.attributes.items()
        if name not in node.attributes
    ) and all(
        attribute.default_value == before.attributes[name].default_value
        and attribute.type == before.attributes[name].type
        for name, attribute in known.items()
    )
    required = all(name in node.attributes for name, attribute in after.attributes.items() if attribute.required)
    return (
        inputs[0] == inputs[1]
        and after.min_input <= used <= after.max_input
        and len(node.outputs) <= after.max_output
        and all(name in after.attributes for name in node.attributes)
        and defaults
        and required
    )


def _is_none(attribute: onnx.defs.OpSchema.Attribute) -> bool:
    """Whether omitting an attribute has no meaning of its own."""
    return attribute.default_value.type == onnx.AttributeProto.UNDEFINED
