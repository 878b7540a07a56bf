"""Checkpoints: what training has reached, read from files of either format and written to ours, whole or not at all."""

from onnx_cbp.training.checkpoints.contents import Checkpoint, OptimizerState, Property
from onnx_cbp.training.checkpoints.files import load, save, save_values

__all__ = ["Checkpoint", "OptimizerState", "Property", "load", "save", "save_values"]
