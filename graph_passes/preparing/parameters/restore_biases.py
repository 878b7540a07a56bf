"""Restores the biases that an exporter dropped because they were zero."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.batch_norms.naming import module_path
from onnx_cbp.graph_passes.core.splice import Names
from onnx_cbp.graph_passes.core.types import Types

#: Here PyTorch's default exporter records the call from which a node comes; its third argument is a parameter.
_CALL = "pkg.torch.onnx.fx_node"
_BIAS_PARAMETER = re.compile(r"\(args = \(%\w+, %\w+, %p_(\w+)")
_RULE = "pkg.onnxscript.rewriter.rule_name"
_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1}  # the axis of the weight that has the size of the bias


class RestoreBiasesPass(InPlacePass):
    """Restores zero biases that PyTorch's default exporter (optimize=True) removed from convolutions and Gemms.

    The biases of a fresh network are often zeros, and train all the same. The exporter's optimiser takes them for
    useless ones. But it records which rule it applied, and to which call.

    Attributes:
        biases: after a call, by the name of a layer's weight, the name of its bias.
    """

    def __init__(self) -> None:
        super().__init__()
        self.biases: dict[str, str] = {}

    def call(self, model: ir.Model) -> PassResult:
        """Restore in place."""
        self.biases = {}
        types, names = Types(model), Names(model)
        restored: dict[str, ir.Value] = {}
        for node in model.graph:
            called = _lost(node)
            weight = node.inputs[1] if called else None
            size = None if weight is None else _size(node, types.shape(weight))
            if weight is None or called is None or size is None:
                continue
            if called not in restored:
                restored[called] = _zeros(names.fresh(_name(node, called)), size, types.of(weight))
                model.graph.register_initializer(restored[called])
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            node.replace_input_with(2, restored[called])
            self.biases[weight.name or ""] = restored[called].name or ""
        return PassResult(model, bool(restored))


def _lost(node: ir.Node) -> str | None:
    """The exporter's name for the bias that a node lost; None if it lost none."""
    if node.domain != "" or node.op_type not in _AXIS or (len(node.inputs) > 2 and node.inputs[2] is not None):
        return None
    if "RemoveOptionalBias" not in node.metadata_props.get(_RULE, ""):
        return None
    found = _BIAS_PARAMETER.search(node.metadata_props.get(_CALL, ""))
    return found[1] if found else None


def _name(node: ir.Node, called: str) -> str:
    """The module's name for it."""
    name = f"{module_path(node)}.bias"
    return name if name.replace(".", "_") == called else called


def _size(node: ir.Node, shape: tuple[int | str | None, ...] | None) -> int | None:
    axis = _AXIS[node.op_type]
    if shape is None or len(shape) < 2:
        return None
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        axis = 0 if transposed is not None and transposed.as_int() else 1
    size = shape[axis]
    if not isinstance(size, int):
        return None
    group = node.attributes.get("group")
    return size * group.as_int() if node.op_type == "ConvTranspose" and group is not None else size


def _zeros(name: str, size: int, dtype: ir.DataType | None) -> ir.Value:
    dtype = dtype or ir.DataType.FLOAT
    tensor = ir.tensor(np.zeros(size, dtype.numpy()), dtype=dtype, name=name)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape((size,)), const_value=tensor)
