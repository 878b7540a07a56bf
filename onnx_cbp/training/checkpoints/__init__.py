"""Checkpoints: read from files of ONNX Runtime's format and ours, and written to ours."""

from onnx_cbp.training.checkpoints.contents import Checkpoint, OptimizerState, Property
from onnx_cbp.training.checkpoints.files import load, save, save_values

__all__ = ["Checkpoint", "OptimizerState", "Property", "load", "save", "save_values"]
