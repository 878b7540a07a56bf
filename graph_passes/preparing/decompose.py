"""Replaces ops that a gradient builder cannot differentiate, or differentiates wrongly, by simpler ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnx_ir.passes.common import InlinePass

from onnx_cbp.graph_passes.core.formula import Formula
from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.splice import Names, Splice
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import gradient_path
from onnx_cbp.graph_passes.preparing.decompositions import RULES, Rule

#: The domain of function bodies between their creation and their inlining.
_BODIES = "onnx_cbp.bodies"


class DecomposePass(InPlacePass):
    """Each unwanted node of ONNX's domain is replaced by what its rule writes, which computes the same.

    A node without a rule is replaced by the body in ONNX's specification, if there is one in ops of the model's opset.
    The new nodes are checked too. Nodes through which no wanted gradient passes stay.

    Args:
        unwanted: whether an op must be replaced.
        trained: names of the parameters with a gradient; None: every node counts.
        rules: the rules, by op.

    Raises:
        OnnxCbpError: a rule needs a size that is not known.
    """

    def __init__(
        self,
        unwanted: Callable[[str], bool],
        trained: Collection[str] | None = None,
        rules: Mapping[str, Rule] = RULES,
    ) -> None:
        super().__init__()
        self._unwanted = unwanted
        self._trained = trained
        self._rules = rules

    def call(self, model: ir.Model) -> PassResult:
        """Decompose in place."""
        modified, kept = False, set[ir.Node]()
        while True:
            followed = None if self._trained is None else gradient_path(model, self._trained)
            nodes = [node for node in model.graph if self._chooses(node, followed) and node not in kept]
            changed = self._by_rules(nodes, model, followed, kept)
            changed |= self._by_bodies(nodes, model)
            if not changed:
                return PassResult(model, modified)
            modified = True
            infer_shapes(model)

    def _chooses(self, node: ir.Node, followed: Collection[ir.Value] | None) -> bool:
        if node.domain != "" or not self._unwanted(node.op_type):
            return False
        return followed is None or any(value in followed for value in node.outputs)

    def _by_rules(
        self, nodes: list[ir.Node], model: ir.Model, followed: Collection[ir.Value] | None, kept: set[ir.Node]
    ) -> bool:
        names, types, opset = Names(model), Types(model), onnx_opset(model.opset_imports)
        modified = False
        for node in nodes:
            if node.op_type not in self._rules:
                continue
            splice = Splice(node, names, types)
            made = self._rules[node.op_type](Formula(node, splice, types, opset, followed))
            if made is None:
                continue
            for old, new in zip(node.outputs, made if isinstance(made, list) else [made], strict=False):
                if new is not None:
                    splice.hand_over(old, new)
            kept.update(each for each in splice.nodes if each.op_type == node.op_type)  # the rule wants this node
            splice.commit()
            modified = True
        return modified

    def _by_bodies(self, nodes: list[ir.Node], model: ir.Model) -> bool:
        opset, types = onnx_opset(model.opset_imports), Types(model)
        functions: dict[tuple[str, str, str], ir.Function] = {}
        for index, node in enumerate(nodes):
            body = None if node.op_type in self._rules else _body(node, opset, types)
            if body is None:
                continue
            body.domain, body.name = _BODIES, f"{node.op_type}_{index}"
            function = ir.from_proto(body)
            assert isinstance(function, ir.Function)
            functions[function.identifier()] = function
            node.domain, node.op_type = function.domain, function.name
        if functions:
            model.functions.update(functions)
            model.opset_imports[_BODIES] = 1
            InlinePass(criteria=lambda function: function.domain == _BODIES)(model)
            model.opset_imports.pop(_BODIES, None)
        return bool(functions)


def _body(node: ir.Node, opset: int, types: Types) -> onnx.FunctionProto | None:
    """The body of a node's op in ONNX's specification, for this node; None if there is none in ops of this opset."""
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, "")  # onnx's stubs are incomplete
    except onnx.defs.SchemaError:
        return None
    body = onnx.FunctionProto()
    if schema.has_function:
        version = max((each for each in schema.function_opset_versions if each <= opset), default=None)
        text = schema.get_function_with_opset_version(version or min(schema.function_opset_versions))
        body.ParseFromString(text if isinstance(text, bytes) else text.SerializeToString())
    elif schema.has_context_dependent_function:
        inputs = [_type(value, types) for value in node.inputs]
        body.ParseFromString(
            schema.get_context_dependent_function(ir.serde.serialize_node(node).SerializeToString(), inputs)
        )
    if not body.node or not _serves(body, opset):
        return None
    del body.opset_import[:]
    body.opset_import.append(onnx.helper.make_opsetid("", opset))
    given = set(node.attributes)
    for name, attribute in schema.attributes.items():  # the body refers to them
        if name in body.attribute and name not in given and attribute.default_value.type:
            node.attributes[name] = ir.from_proto(attribute.default_value)
    return body


def _type(value: ir.Value | None, types: Types) -> bytes:
    proto = onnx.TypeProto()
    dtype = None if value is None else types.of(value)
    if dtype is not None:
        proto.tensor_type.elem_type = dtype.value
    return proto.SerializeToString()


def _serves(body: onnx.FunctionProto, opset: int) -> bool:
    """Whether each op of a body means the same in this opset as in the opset that the body was written for."""
    written = next((each.version for each in body.opset_import if each.domain == ""), opset)
    nodes: Collection[onnx.NodeProto] = body.node
    for node in nodes:
        try:
            here = onnx.defs.get_schema(node.op_type, opset, node.domain)
            there = onnx.defs.get_schema(node.op_type, written, node.domain)
        except onnx.defs.SchemaError:
            return False
        if here.since_version != there.since_version:
            return False
    return True
