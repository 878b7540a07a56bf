"""The ops of the domain: one file per op, one folder per kind."""

from __future__ import annotations

from onnx_cbp.custom_ops.operator import Operator
from onnx_cbp.custom_ops.ops.batch_norms import (
    batch_norm_grad,
    batch_norm_recompute_relu_grad,
    batch_norm_relu_grad,
    batch_norm_relu_train_update,
    batch_norm_train,
    batch_norm_train_update,
)
from onnx_cbp.custom_ops.ops.channels import (
    channel_backprop,
    channel_backprop_stats,
    channel_backprop_stats_grad,
    channel_normalize,
    channel_stats,
    channel_stats_merge,
    running_stats,
)
from onnx_cbp.custom_ops.ops.collectives import all_gather, all_reduce, all_reduce_bucket
from onnx_cbp.custom_ops.ops.convolutions import (
    conv_grad_weight,
    depthwise_conv_grad_weight,
    direct_conv,
    direct_conv_exchanged,
)

#: Every op, by name.
OPERATORS: dict[str, Operator] = {
    module.OPERATOR.name: module.OPERATOR
    for module in (
        channel_stats,
        channel_stats_merge,
        channel_normalize,
        channel_backprop_stats,
        channel_backprop,
        channel_backprop_stats_grad,
        running_stats,
        batch_norm_train,
        batch_norm_train_update,
        batch_norm_grad,
        batch_norm_relu_grad,
        batch_norm_relu_train_update,
        batch_norm_recompute_relu_grad,
        depthwise_conv_grad_weight,
        direct_conv,
        direct_conv_exchanged,
        conv_grad_weight,
        all_gather,
        all_reduce,
        all_reduce_bucket,
    )
}
