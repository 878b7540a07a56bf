"""`check`: runs an original and a rewritten model on the same random inputs, and compares the results."""

from onnx_cbp.checking.comparing import compare, compare_fusions
from onnx_cbp.checking.differences import Difference, default_tolerance
from onnx_cbp.checking.fusion_effects import FusionEffect, FusionEffects

__all__ = ["Difference", "FusionEffect", "FusionEffects", "compare", "compare_fusions", "default_tolerance"]
