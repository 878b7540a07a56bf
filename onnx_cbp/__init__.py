"""Batch-norm training on ONNX Runtime: right and fast."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from onnx_cbp.lazy import on_first_use

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
    from onnx_cbp.synchronizing import convert_sync_batchnorm
    from onnx_cbp.updating import update_bn
    from onnx_cbp.version import __version__

__all__ = [
    "Finalized",
    "Finding",
    "OnnxCbpError",
    "__version__",
    "convert_sync_batchnorm",
    "finalize",
    "get_library_path",
    "inspect",
    "raise_python_op_error",
    "register",
    "rewrite",
    "update_bn",
]

#: Where each name is defined. It is imported only when it is used: onnx-ir alone takes a quarter of a second to import,
#: and neither `onnx-cbp --version` nor a program that only runs a rewritten model needs it.
_HOMES = {
    "Finalized": "onnx_cbp.finalizing",
    "Finding": "onnx_cbp.rewriting",
    "OnnxCbpError": "onnx_cbp.errors",
    "__version__": "onnx_cbp.version",
    "convert_sync_batchnorm": "onnx_cbp.synchronizing",
    "finalize": "onnx_cbp.finalizing",
    "get_library_path": "onnx_cbp.custom_ops.library",
    "inspect": "onnx_cbp.rewriting",
    "raise_python_op_error": "onnx_cbp.custom_ops.python_ops",
    "register": "onnx_cbp.registration",
    "rewrite": "onnx_cbp.rewriting",
    "update_bn": "onnx_cbp.updating",
}

#: Modules that are also attributes of the package, without an import of their own.
_MODULES = ("bench", "checking", "cli", "custom_ops", "distributed", "errors", "graph_passes", "report", "training")

__getattr__, __dir__ = on_first_use(__name__, globals(), modules=_MODULES, names=_HOMES)
