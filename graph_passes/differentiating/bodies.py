"""Replaces ops without a rule by simpler ops: by a function body, or by the steps of a recurrent network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import foreign
from onnx_cbp.graph_passes.core.inference import follow
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.differentiating.recurrent import is_recurrent, unrolled


@dataclass(frozen=True)
class Body:
    """Nodes that compute what a node does.

    Attributes:
        nodes: in order; they read the inputs of the node itself, and are in no graph.
        outputs: what replaces each output of the node.
    """

    nodes: tuple[ir.Node, ...]
    outputs: tuple[ir.Value, ...]


def body_of(node: ir.Node, model: ir.Model, types: Types) -> Body | None:
    """The body of a node, with types and shapes; None if it has none that this opset can run."""
    proto = ir.serde.serialize_node(node)
    inputs = {value.name or "": _type(value, types) for value in node.inputs if value is not None}
    function = _function(node, proto, model, [inputs.get(name) for name in proto.input])
    if function is None or any(each.HasField("g") or each.graphs for n in function.node for each in n.attribute):
        return None
    typed = _typed(function, proto, model, inputs, node)
    if any(_BODY + name not in _made(typed) for name, _ in zip(function.output, proto.output, strict=False)):
        return None  # an output that is an input
    graph = ir.from_proto(typed).graph
    made = {value.name: value for each in graph for value in each.outputs}
    real = {value.name: value for value in node.inputs if value is not None}
    for value in graph.inputs:
        value.replace_all_uses_with(real[value.name])
    nodes = tuple(graph)
    graph.outputs.clear()
    graph.remove(nodes)
    return Body(nodes, tuple(made[_BODY + name] for name, _ in zip(function.output, node.outputs, strict=False)))


def _made(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


_BODY = "body/"  # no name outside the body begins so


def _type(value: ir.Value, types: Types) -> onnx.TypeProto | None:
    dtype = types.of(value)
    return None if dtype is None else onnx.helper.make_tensor_type_proto(dtype.value, types.shape(value))


def _function(
    node: ir.Node, proto: onnx.NodeProto, model: ir.Model, inputs: list[onnx.TypeProto | None]
) -> onnx.FunctionProto | None:
    opset = onnx_opset(model.opset_imports)
    local = model.functions.get(node.op_identifier())
    if local is not None and node.domain != DOMAIN:
        return (
            ir.to_proto(local) if _means_the_same(ir.to_proto(local), onnx_opset(local.opset_imports), opset) else None
        )
    if node.domain != "":
        return None
    if is_recurrent(node):
        given = iter(inputs)
        return unrolled(node, [None if value is None else next(given) for value in node.inputs])
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    function = onnx.FunctionProto()
    if schema.has_function:
        version = max((each for each in schema.function_opset_versions if each <= opset), default=None)
        if version is None:
            return None
        function.ParseFromString(schema.get_function_with_opset_version(version))
    elif schema.has_context_dependent_function:
        version = max(
            (each for each in schema.context_dependent_function_opset_versions if each <= opset), default=None
        )
        if version is None or any(each is None for each in inputs):
            return None
        kinds = [each.SerializeToString() for each in inputs if each is not None]
        with foreign(f"node '{label(node)}' ({node.op_type}): onnx cannot write it in other ops"):
            data = schema.get_context_dependent_function_with_opset_version(version, proto.SerializeToString(), kinds)
        function.ParseFromString(data)
    else:
        return None
    return function if _means_the_same(function, version, opset) else None


def _means_the_same(function: onnx.FunctionProto, written: int, opset: int) -> bool:
    """Whether the ops of a body mean the same in the model's opset as in the opset that the body was written for."""
    for node in function.node:
        if node.domain != "":
            continue  # another function, or an op of a runtime, which has one version
        try:
            first, second = (onnx.defs.get_schema(node.op_type, each, "").since_version for each in (written, opset))
        except onnx.defs.SchemaError:  # one of them does not have it
            return False
        if first != second and node.op_type not in _SAME_WITH_MORE_TYPES:
            return False
    return True


#: Ops whose newer versions only accept more types.
_SAME_WITH_MORE_TYPES = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "CastLike", "Clip", "Constant", "ConstantOfShape", "Div", "Elu", "Equal", "Erf"),
        *("Exp", "Flatten", "Greater", "GreaterOrEqual", "HardSigmoid", "Identity", "LeakyRelu", "Less", "LessOrEqual"),
        *("Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "Reciprocal", "ReduceSum", "Relu", "Reshape"),
        *("Selu", "Shape", "Sigmoid", "Size", "Softplus", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
        "Where",
    )
)


def _typed(
    function: onnx.FunctionProto,
    proto: onnx.NodeProto,
    model: ir.Model,
    inputs: dict[str, onnx.TypeProto | None],
    node: ir.Node,
) -> onnx.ModelProto:
    """A model of the body alone, with the caller's attributes and the types that inference finds."""
    given = {each.name: each for each in proto.attribute}
    defaults = {each.name: each for each in function.attribute_proto}
    if node.domain == "":
        schema = onnx.defs.get_schema(node.op_type, onnx_opset(model.opset_imports), "")
        defaults.update({n: a.default_value for n, a in schema.attributes.items() if a.default_value.name})
    names = dict(zip(function.input, [*proto.input, *[""] * len(function.input)], strict=False))
    graph = onnx.GraphProto(name="body")
    for each in function.node:
        copy = graph.node.add()
        copy.CopyFrom(each)
        copy.input[:] = [names.get(name, _BODY + name) if name else "" for name in each.input]
        copy.output[:] = [_BODY + name if name else "" for name in each.output]
        del copy.attribute[:]
        for attribute in each.attribute:
            if not attribute.ref_attr_name:
                copy.attribute.add().CopyFrom(attribute)
                continue
            source = given.get(attribute.ref_attr_name, defaults.get(attribute.ref_attr_name))
            if source is not None:
                written = copy.attribute.add()
                written.CopyFrom(source)
                written.name = attribute.name
    for name, kind in inputs.items():
        constant = next((v for v in node.inputs if v is not None and v.name == name), None)
        tensor = None if constant is None else ir.convenience.get_const_tensor(constant)
        value = graph.input.add(name=name)
        if kind is not None:
            value.type.CopyFrom(kind)
        if tensor is not None and tensor.size <= _KNOWN:
            graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), name))
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    typed = onnx.helper.make_model(graph, opset_imports=imports)
    typed.functions.extend(ir.to_proto(each) for each in model.functions.values())
    inferred = follow(typed, is_strict=False) or typed
    _forget_new_symbols(inferred.graph)
    return inferred


def _forget_new_symbols(graph: onnx.GraphProto) -> None:
    """Remove the symbols that inference has invented: the model may use the same names for other sizes."""
    given = {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim}
    for value in (*graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param not in given:
                dim.Clear()


_KNOWN = 64  # elements of a constant that shapes may depend on
