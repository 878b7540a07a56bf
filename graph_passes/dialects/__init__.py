"""The forms in which batch norms come, one file per form. Each has `recognise(node, opset) -> Site | None`."""

from onnx_cbp.graph_passes.dialects import (
    channel_ops,
    folded,
    made_statistics,
    onnx_batch_normalization,
    ort_training,
    primitive_arithmetic,
)
from onnx_cbp.graph_passes.dialects.built_gradients import built_gradient, forward_name
from onnx_cbp.graph_passes.dialects.channel_inference import inference_form, running_updates
from onnx_cbp.graph_passes.dialects.channel_ops import (
    counted,
    is_cumulative,
    is_frozen_forward,
    is_rewritten_forward,
    never_had_running_statistics,
    rewritten_site,
    running_statistics,
    say_without_running_statistics,
)
from onnx_cbp.graph_passes.dialects.ort_inference import in_onnx
from onnx_cbp.graph_passes.dialects.ort_losses import Reduction, is_loss_gradient, reduction
from onnx_cbp.graph_passes.dialects.ort_training import is_gradient_accumulator, relu_gradient

__all__ = [
    "DIALECTS",
    "Reduction",
    "built_gradient",
    "counted",
    "forward_name",
    "in_onnx",
    "inference_form",
    "is_cumulative",
    "is_frozen_forward",
    "is_gradient_accumulator",
    "is_loss_gradient",
    "is_rewritten_forward",
    "made_statistics",
    "never_had_running_statistics",
    "primitive_arithmetic",
    "reduction",
    "relu_gradient",
    "rewritten_site",
    "running_statistics",
    "running_updates",
    "say_without_running_statistics",
]

#: Tried in this order; the first that recognises a node decides. `primitive_arithmetic`, which needs
#: shapes too, comes after them.
DIALECTS = (onnx_batch_normalization, ort_training, channel_ops, folded)
