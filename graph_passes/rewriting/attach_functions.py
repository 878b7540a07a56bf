"""Attaches the function bodies of our ops, so that the model runs without our library."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN, OPERATORS, Operator
from onnx_cbp.custom_ops.functions import make_function, serves_mixed_types
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects._reading import attribute

_log = logging.getLogger("onnx_cbp")
_FUNCTIONS_SINCE_IR_VERSION = 8


class AttachFunctionsPass(InPlacePass):
    """Adds a model-local function for every op of the domain that the model uses.

    With a library registered, ONNX Runtime prefers its kernels.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Add the functions in place.

        Raises:
            OnnxCbpError: function bodies do not support the model's opset, or a type at this opset.
        """
        nodes = [node for node in all_nodes(model) if node.domain == DOMAIN]
        opset = onnx_opset(model.opset_imports)
        if not serves_mixed_types(opset):
            _refuse_other_types_than_float(nodes, opset)
        _warn_of_double_data_with_float_statistics(nodes, Types(model))
        modified = False
        for name in dict.fromkeys(node.op_type for node in nodes):
            if name in OPERATORS:
                function = make_function(OPERATORS[name], opset, _agreed(OPERATORS[name], nodes))
                modified |= _attach(ir.serde.deserialize_function(function), model)
        if modified and model.ir_version < _FUNCTIONS_SINCE_IR_VERSION:
            model.ir_version = _FUNCTIONS_SINCE_IR_VERSION
        return PassResult(model, modified)


def _attach(function: ir.Function, model: ir.Model) -> bool:
    """Put a function into the model; one that is there may be for attributes that its nodes had before."""
    present = model.functions.get(function.identifier())
    if present is not None and _text(present) == _text(function):
        return False
    model.functions[function.identifier()] = function
    return True


def _text(function: ir.Function) -> str:
    return str(ir.serde.serialize_function(function))


def _agreed(operator: Operator, nodes: list[ir.Node]) -> dict[str, int]:
    """What all nodes of the op have of the attributes that its body chooses by."""
    own = [node for node in nodes if node.op_type == operator.name]
    defaults = operator.defaults(0)
    values = {name: {attribute(node, name, defaults[name]) for node in own} for name in operator.choices}
    return {name: next(iter(found)) for name, found in values.items() if len(found) == 1}


def _refuse_other_types_than_float(nodes: list[ir.Node], opset: int) -> None:
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.dtype in (
                ir.DataType.DOUBLE,
                ir.DataType.FLOAT16,
                ir.DataType.BFLOAT16,
            ):
                raise OnnxCbpError(
                    f"node '{label(node)}': function bodies for {value.dtype} ('{value.name}') need opset 15 or newer, "
                    f"the model imports opset {opset}: convert it with onnx.version_converter, or rewrite it without "
                    "'portable'"
                )


def _warn_of_double_data_with_float_statistics(nodes: list[ir.Node], types: Types) -> None:
    """Tell what loses digits: bodies compute in the type of the statistics, and cannot ask which is wider."""
    found = []
    for node in nodes:
        if node.op_type not in OPERATORS:
            continue
        formals = OPERATORS[node.op_type].inputs
        kinds = {t.type: types.of(value) for t, value in zip(formals, node.inputs, strict=True) if value is not None}
        if "stash_type" in node.attributes:
            kinds["U"] = ir.DataType(node.attributes["stash_type"].as_int())
        if (kinds.get("T"), kinds.get("U")) == (ir.DataType.DOUBLE, ir.DataType.FLOAT):
            found.append(label(node))
    if found:
        _log.warning(
            "portable: function bodies compute in the type of the statistics, so double data lose digits where these "
            "are float: make them double: node '%s'%s",
            found[0],
            f" and {len(found) - 1} more" if len(found) > 1 else "",
        )
