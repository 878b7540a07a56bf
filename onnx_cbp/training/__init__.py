"""Training on any onnxruntime, and with ONNX Runtime's training build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_cbp.lazy import on_first_use

if TYPE_CHECKING:
    from onnx_cbp.training.artifacts import LossType, OptimType, generate_artifacts
    from onnx_cbp.training.compare import Artifacts, StepDifferences, Trainer, compare_steps
    from onnx_cbp.training.runtime import load_api, load_artifacts
    from onnx_cbp.training.stepping import StepModel, step_model

__all__ = [
    "Artifacts",
    "LossType",
    "OptimType",
    "StepDifferences",
    "StepModel",
    "Trainer",
    "compare_steps",
    "generate_artifacts",
    "load_api",
    "load_artifacts",
    "step_model",
]

#: Where each name is defined. It is imported only when it is used, since a checkpoint can be read without onnxruntime.
_HOMES = {
    "Artifacts": "onnx_cbp.training.compare",
    "LossType": "onnx_cbp.training.artifacts",
    "OptimType": "onnx_cbp.training.artifacts",
    "StepDifferences": "onnx_cbp.training.compare",
    "StepModel": "onnx_cbp.training.stepping",
    "Trainer": "onnx_cbp.training.compare",
    "compare_steps": "onnx_cbp.training.compare",
    "generate_artifacts": "onnx_cbp.training.artifacts",
    "load_api": "onnx_cbp.training.runtime",
    "load_artifacts": "onnx_cbp.training.runtime",
    "step_model": "onnx_cbp.training.stepping",
}

#: Modules that are also attributes of the package, without an import of their own.
_MODULES = ("api", "artifacts", "checkpoints", "compare", "losses", "optimizers")

__getattr__, __dir__ = on_first_use(__name__, globals(), modules=_MODULES, names=_HOMES)
