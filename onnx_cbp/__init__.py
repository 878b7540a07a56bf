"""Batch-norm training on ONNX Runtime: right and fast."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if find_spec("onnx_cbp.custom_ops") is None:
    raise ImportError(
        f"{__path__[0]} is the source folder, a part of the package only: start Python in another folder, or install "
        "the package with pip install -e"
    )

if TYPE_CHECKING:
    from onnx_cbp.custom_ops.library import get_library_path
    from onnx_cbp.custom_ops.python_ops import raise_python_op_error
    from onnx_cbp.errors import OnnxCbpError
    from onnx_cbp.finalizing import Finalized, finalize
    from onnx_cbp.registration import register
    from onnx_cbp.rewriting import Finding, inspect, rewrite
    from onnx_cbp.updating import update_bn

__all__ = [
    "Finalized",
    "Finding",
    "OnnxCbpError",
    "finalize",
    "get_library_path",
    "inspect",
    "raise_python_op_error",
    "register",
    "rewrite",
    "update_bn",
]

#: Where each name lives. Looked up when it is asked for: onnx-ir alone takes a quarter of a second to import, which
#: neither `onnx-cbp --version` nor a program that only runs a rewritten model has a use for.
_HOMES = {
    "Finalized": "onnx_cbp.finalizing",
    "Finding": "onnx_cbp.rewriting",
    "OnnxCbpError": "onnx_cbp.errors",
    "finalize": "onnx_cbp.finalizing",
    "get_library_path": "onnx_cbp.custom_ops.library",
    "inspect": "onnx_cbp.rewriting",
    "raise_python_op_error": "onnx_cbp.custom_ops.python_ops",
    "register": "onnx_cbp.registration",
    "rewrite": "onnx_cbp.rewriting",
    "update_bn": "onnx_cbp.updating",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
