"""Batch-norm training on ONNX Runtime: right and fast."""

try:
    from onnx_cbp.custom_ops.library import get_library_path
except ModuleNotFoundError as error:
    if error.name != "onnx_cbp.custom_ops":
        raise
    raise ImportError(
        f"{__path__[0]} is the source folder, a part of the package only: start Python in another folder, or install "
        "the package with pip install -e"
    ) from None
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
