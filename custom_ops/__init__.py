"""The op domain `onnx_cbp`: schemas, references, function bodies, Python ops and the native library."""

from onnx_cbp.custom_ops.operator import DOMAIN, OPSET_VERSION, Operator
from onnx_cbp.custom_ops.ops import OPERATORS
from onnx_cbp.lazy import on_first_use

__all__ = ["DOMAIN", "OPERATORS", "OPSET_VERSION", "Operator"]

#: Modules that are also attributes of the package, without an import of their own.
_MODULES = ("bodies", "double_backward", "functions", "gradients", "library", "python_ops", "references", "schemas")

__getattr__, __dir__ = on_first_use(__name__, globals(), modules=_MODULES)
