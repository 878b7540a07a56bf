"""Does a rewritten model still compute what the original computes? Both are run on the same random inputs."""

from onnx_cbp.checking.comparing import compare, compare_fusions
from onnx_cbp.checking.differences import Difference, default_tolerance
from onnx_cbp.checking.fusion_effects import FusionEffect, FusionEffects

__all__ = ["Difference", "FusionEffect", "FusionEffects", "compare", "compare_fusions", "default_tolerance"]
