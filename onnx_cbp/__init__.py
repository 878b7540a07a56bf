"""Batch-norm training on ONNX Runtime: right, fast and synchronized."""

from onnx_cbp.custom_ops.library import get_library_path
from onnx_cbp.custom_ops.python_ops import raise_python_op_error
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.registration import register
from onnx_cbp.rewriting import Finding, inspect, rewrite

__all__ = [
    "Finding",
    "OnnxCbpError",
    "get_library_path",
    "inspect",
    "raise_python_op_error",
    "register",
    "rewrite",
]
