"""ONNX Runtime's training modules, importable without PyTorch."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from onnx_cbp.custom_ops.library import native_target
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.model_files.model_io import load_model

_PACKAGE = "onnxruntime.training"


def has_training_build() -> bool:
    """Whether the installed onnxruntime is the training build."""
    try:
        from onnxruntime.capi import _pybind_state
    except ImportError:
        return False
    return hasattr(_pybind_state, "Module")


def load_api() -> Any:
    """The module `onnxruntime.training.api`: CheckpointState, Module, Optimizer.

    Raises:
        OnnxCbpError: the installed onnxruntime is not the training build.
    """
    return _load("api")


def api_of(training_model: Path) -> Any:
    """The API that runs a training graph: `onnx_cbp.training.api` for our builder's graphs, otherwise ONNX Runtime's.

    Raises:
        OnnxCbpError: the file cannot be read, or the installed onnxruntime is not the training build that it needs.
    """
    from onnx_cbp.graph_passes.stepping.training_graph import METADATA
    from onnx_cbp.training import api

    if training_model.suffix == ".ort":  # only ONNX Runtime's builder has this format
        return load_api()
    model = load_model(training_model, external_data=False)
    return api if any(each.key == METADATA for each in model.metadata_props) else load_api()


def load_artifacts() -> Any:
    """The module `onnxruntime.training.artifacts`: generate_artifacts, LossType, OptimType.

    Raises:
        OnnxCbpError: the installed onnxruntime is not the training build.
    """
    return _load("artifacts")


def _load(module: str) -> Any:
    # The package's __init__ imports PyTorch for what is not used here; without PyTorch, a bare package object stands
    # in for it, and its modules import as they are.
    stand_in = None
    if _PACKAGE not in sys.modules and importlib.util.find_spec("torch") is None:
        stand_in = sys.modules[_PACKAGE] = _bare_package()
    try:
        return importlib.import_module(f"{_PACKAGE}.{module}")
    except ImportError as error:
        if stand_in is not None:
            # Left behind, it would let `import onnxruntime.training` succeed with nothing in it.
            del sys.modules[_PACKAGE]
        raise OnnxCbpError(
            f"the installed onnxruntime cannot train ({error}): pip install onnxruntime-training-cpu==1.19.2 in an "
            "environment that has no other onnxruntime"
        ) from error


def _bare_package() -> types.ModuleType:
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise OnnxCbpError("onnxruntime is not installed: pip install onnxruntime-training-cpu==1.19.2")
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(Path(spec.origin).parent / "training")]
    package.__spec__ = importlib.machinery.ModuleSpec(_PACKAGE, None, is_package=True)
    return package


def direct_convs_pay() -> bool:
    """Whether our convolutions were measured to be faster than onnxruntime's on a machine like this one."""
    import onnxruntime

    has_cuda = any(name.upper().startswith("CUDA") for name in onnxruntime.get_available_providers())
    return native_target() in ("avx2", "avx512") and not has_cuda
