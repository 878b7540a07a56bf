"""ONNX Runtime's training API without PyTorch, training artifacts, and step-by-step comparison of training graphs."""

from onnx_cbp.training.artifacts import generate_artifacts
from onnx_cbp.training.compare import Artifacts, StepDifferences, Trainer, compare_steps
from onnx_cbp.training.runtime import load_api, load_artifacts

__all__ = [
    "Artifacts",
    "StepDifferences",
    "Trainer",
    "compare_steps",
    "generate_artifacts",
    "load_api",
    "load_artifacts",
]
