"""Registers the gradient rules of our own ops, which are in `onnx_cbp.custom_ops.ops`."""

from __future__ import annotations

from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.graph_passes.differentiating.registry import rule

for _operator in OPERATORS.values():
    if _operator.gradient is not None:
        rule(_operator.name, domain=DOMAIN)(_operator.gradient)
