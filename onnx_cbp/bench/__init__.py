"""The benchmark: our kernels against ONNX Runtime's and PyTorch's, and training steps, original against rewritten."""

from onnx_cbp.bench.kernels import KERNELS
from onnx_cbp.bench.results import Row, as_document, machine
from onnx_cbp.bench.running import Bench, Settings
from onnx_cbp.bench.runtimes import Runtime, find_runtimes
from onnx_cbp.bench.shapes import ShapeSet, load_shapes, shape_sets
from onnx_cbp.bench.training_steps.step_models import check_step_model
from onnx_cbp.bench.training_steps.step_results import StepRow
from onnx_cbp.bench.training_steps.steps import StepBench, StepSettings

__all__ = [
    "KERNELS",
    "Bench",
    "Row",
    "Runtime",
    "Settings",
    "ShapeSet",
    "StepBench",
    "StepRow",
    "StepSettings",
    "as_document",
    "check_step_model",
    "find_runtimes",
    "load_shapes",
    "machine",
    "shape_sets",
]
