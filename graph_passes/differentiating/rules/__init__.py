"""Gradient rules, one file a family of ops. Importing them registers them."""

from onnx_cbp.graph_passes.differentiating.rules import (
    activation,
    elementwise,
    linear,
    reduction,
    shape,
)

__all__ = ["activation", "elementwise", "linear", "reduction", "shape"]
