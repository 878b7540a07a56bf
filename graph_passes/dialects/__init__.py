"""The forms in which batch norms come, one file a form. Each has `recognise(node, opset) -> Site | None`."""

from onnx_cbp.graph_passes.dialects import (
    channel_ops,
    folded,
    onnx_batch_normalization,
    ort_training,
    primitive_arithmetic,
)
from onnx_cbp.graph_passes.dialects.channel_ops import is_rewritten_forward
from onnx_cbp.graph_passes.dialects.ort_losses import Reduction, is_loss_gradient, reduction
from onnx_cbp.graph_passes.dialects.ort_training import is_gradient_accumulator, relu_gradient

__all__ = [
    "DIALECTS",
    "Reduction",
    "is_gradient_accumulator",
    "is_loss_gradient",
    "is_rewritten_forward",
    "primitive_arithmetic",
    "reduction",
    "relu_gradient",
]

#: Tried in this order; the first that recognises a node decides. `primitive_arithmetic`, which needs
#: shapes too, comes after them.
DIALECTS = (onnx_batch_normalization, ort_training, channel_ops, folded)
