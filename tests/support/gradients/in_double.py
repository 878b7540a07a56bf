"""What a model of ONNX's ops gives when all of it is computed in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator


def in_double(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], outputs: list[str] | None = None
) -> list[np.ndarray]:
    """The outputs (those named, or all) for float feeds, which are widened as every weight is."""
    widened = {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in feeds.items()}
    return ReferenceEvaluator(widen(model)).run(outputs, widened)


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with double in the place of float."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    # onnx's reference takes batch statistics in BatchNormalization-9; the ops here mean the same in every opset.
    wide.opset_import[0].version = max(wide.opset_import[0].version, 15)
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    with_values = [node for node in wide.graph.node if node.op_type in ("Constant", "ConstantOfShape")]
    constants = [attribute.t for node in with_values for attribute in node.attribute]
    for attribute in (a for node in wide.graph.node if node.op_type == "Cast" for a in node.attribute):
        if attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
    for tensor in (*wide.graph.initializer, *constants):
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    return wide
