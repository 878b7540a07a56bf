"""ONNX's type and shape inference on an onnx-ir model, for what it finds and no more."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

_log = logging.getLogger("onnx_ir.passes.common.shape_inference")


def infer_shapes(model: ir.Model) -> None:
    """Write the types and shapes that inference finds into the model; one that defies inference is left as it is."""
    order = list(model.graph.initializers)
    disabled, _log.disabled = _log.disabled, True  # it tells a traceback of every model that it cannot follow
    try:
        ShapeInferencePass()(model)
    finally:
        _log.disabled = disabled
    for name in order:  # it puts large ones behind the others; parameters become inputs in this order
        model.graph.initializers[name] = model.graph.initializers.pop(name)
