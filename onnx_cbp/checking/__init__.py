"""Does a rewritten model still compute what the original computes? Both are run on the same random inputs."""

from onnx_cbp.checking.comparing import compare
from onnx_cbp.checking.differences import Difference, default_tolerance

__all__ = ["Difference", "compare", "default_tolerance"]
