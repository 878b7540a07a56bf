"""Finds the version of ONNX's opset that the nodes of a graph or function use."""

from __future__ import annotations

from collections.abc import Mapping

from onnx_cbp.errors import OnnxCbpError


def onnx_opset(imports: Mapping[str, int]) -> int:
    """The version of ONNX's opset, from the imports of a model or function by domain.

    Models arrive through `onnx_cbp.ir_models.to_ir`, which writes ONNX's domain as "" everywhere.

    Raises:
        OnnxCbpError: it is not imported.
    """
    version = imports.get("")
    if version is None:
        raise OnnxCbpError("the model does not import ONNX's opset: add '' with its version to its opset_imports")
    return version
