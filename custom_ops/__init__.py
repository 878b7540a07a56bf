"""The op domain `onnx_cbp`: schemas, references, function bodies, Python ops and the native library."""

from onnx_cbp.custom_ops.operator import DOMAIN, OPSET_VERSION, Operator
from onnx_cbp.custom_ops.ops import OPERATORS

__all__ = ["DOMAIN", "OPERATORS", "OPSET_VERSION", "Operator"]
