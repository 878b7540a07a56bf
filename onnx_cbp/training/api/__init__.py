"""`onnxruntime.training.api` on any onnxruntime: the same names, arguments and behaviour.

Artifacts come from `onnx_cbp.training.generate_artifacts`. Only the import changes:

    from onnx_cbp.training.api import CheckpointState, LinearLRScheduler, Module, Optimizer
"""

from onnx_cbp.training.api.checkpoint_state import CheckpointState, Parameter, Parameters, Properties
from onnx_cbp.training.api.lr_scheduler import LinearLRScheduler
from onnx_cbp.training.api.module import Module
from onnx_cbp.training.api.optimizer import Optimizer

__all__ = ["CheckpointState", "LinearLRScheduler", "Module", "Optimizer", "Parameter", "Parameters", "Properties"]
