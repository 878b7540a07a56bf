"""Gradient rules, one file for each family of ops. Importing them registers them."""

from onnx_cbp.graph_passes.differentiating.rules import (
    activation,
    channel_ops,
    convolution,
    einsum,
    elementwise,
    linear,
    loss,
    normalization,
    pooling,
    reduction,
    selection,
    shape,
)
from onnx_cbp.graph_passes.differentiating.rules.resampling import deformed, regions, resize, sampling

__all__ = [
    "activation",
    "channel_ops",
    "convolution",
    "deformed",
    "einsum",
    "elementwise",
    "linear",
    "loss",
    "normalization",
    "pooling",
    "reduction",
    "regions",
    "resize",
    "sampling",
    "selection",
    "shape",
]
