"""The ops of the domain, one file an op."""

from __future__ import annotations

from onnx_cbp.custom_ops.operator import Operator
from onnx_cbp.custom_ops.ops import (
    channel_backprop,
    channel_backprop_stats,
    channel_normalize,
    channel_stats,
    running_stats,
)

#: Every op, by name.
OPERATORS: dict[str, Operator] = {
    module.OPERATOR.name: module.OPERATOR
    for module in (
        channel_stats,
        channel_normalize,
        channel_backprop_stats,
        channel_backprop,
        running_stats,
    )
}
