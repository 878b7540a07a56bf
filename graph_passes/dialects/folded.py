"""Recognises layers into which an exporter folded a batch norm, by the traces that it left."""

from __future__ import annotations

import re

import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import Folded

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_REWRITES = "pkg.onnxscript.rewriter.rule_name"
_ORIGINS = ("pkg.torch.onnx.fx_node", "pkg.torch.onnx.class_hierarchy")
_KEEPS = "torch.onnx.export(..., dynamo=True, optimize=False) keeps it"
_TF2ONNX_KEEPS = "tf2onnx of a function that calls the model with training=True keeps it"
_LEGACY_KEEPS = "torch.onnx.export(..., training=TrainingMode.TRAINING, do_constant_folding=False) keeps it"

#: PyTorch's older exporter gives these names to weights that it computes, instead of the names of the parameters.
_CALCULATED = re.compile(r"onnx::(Conv|ConvTranspose|Gemm)_\d+")
#: TensorFlow gives these names to what its batch norms consist of: scale / std, and bias - mean * scale / std.
_TENSORFLOW_FACTOR, _TENSORFLOW_SUMMAND = re.compile(r".*/batchnorm/mul(:\d+)?"), re.compile(r".*/batchnorm/sub(:\d+)?")


def recognise(node: ir.Node, opset: int) -> Folded | None:  # noqa: ARG001 - one signature for every dialect
    """The layer that holds a batch norm, by what exporters record about its origin; None if there is no such record."""
    if node.domain != "" or node.op_type not in (*_LAYERS, "Mul"):
        return None
    form = f"folded into {node.op_type}"
    metadata = node.metadata_props if node.op_type in _LAYERS else {}
    if re.search(r"FuseBatchNormInto\w+", metadata.get(_REWRITES, "")) or any(
        _ends_in_batch_norm(metadata.get(key, "")) for key in _ORIGINS
    ):
        return Folded(node, form, f"the exporter folded a batch norm into it, so none is left to train: {_KEEPS}")
    made = _TENSORFLOW_FACTOR if node.op_type == "Mul" else _TENSORFLOW_SUMMAND
    if any(v is not None and v.is_initializer() and made.fullmatch(v.name or "") for v in node.inputs):
        return Folded(
            node, form, f"the exporter folded a batch norm into it, so none is left to train: {_TF2ONNX_KEEPS}"
        )
    if node.op_type == "Mul":
        return None
    calculated = [value is not None and _CALCULATED.fullmatch(value.name or "") for value in node.inputs[1:3]]
    if len(calculated) == 2 and all(calculated):
        return Folded(node, form, f"the exporter has probably folded a batch norm into it: {_LEGACY_KEEPS}")
    return None


def _ends_in_batch_norm(origin: str) -> bool:
    """Whether a value comes from the call of a batch norm: by the target of the call, or the last of the classes."""
    target = re.search(r"call_function\[target=([\w.:]+)\]", origin)
    called = target[1] if target else origin.rpartition(",")[2]
    return re.search(r"batch_norm(?!\w*backward)", called) is not None
