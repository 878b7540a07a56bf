"""ONNX's own BatchNormalization, as exporters write it."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import LeftAlone, Site
from onnx_cbp.graph_passes.dialects._reading import (
    attribute,
    forward_site,
    inference_site,
    optional_input,
    optional_output,
    refers_to_function_attribute,
)


def recognise(node: ir.Node, opset: int) -> Site | None:
    """The batch norm that `node` is; None if it is none. `opset` is that of the node's own domain."""
    if node.domain != "" or node.op_type != "BatchNormalization":
        return None
    referred = refers_to_function_attribute(node)
    if referred:
        form = "BatchNormalization"
        reason = f"attribute '{referred}' comes from the caller of a model-local function: inline the function first"
        return LeftAlone(node, form, reason)
    training, sign = _trains(node, opset)
    form = f"BatchNormalization-{opset} ({sign})"
    if opset < 9 and not attribute(node, "spatial", 1) and not _has_no_space(node):
        reason = "spatial = 0 asks for statistics of every single activation: only those of a channel are supported"
        return LeftAlone(node, form, reason)
    if not training:
        return inference_site(node, form, superfluous=tuple(node.outputs[1:]))
    return forward_site(node, form, saved_var=optional_output(node, 4))


def _has_no_space(node: ir.Node) -> bool:
    """Whether X is [N, C], where every activation is a channel; then the vectors have one axis."""
    X, scale = optional_input(node, 0), optional_input(node, 1)
    if X is not None and X.shape is not None:
        return len(X.shape) == 2
    return scale is not None and scale.shape is not None and len(scale.shape) == 1


def _trains(node: ir.Node, opset: int) -> tuple[bool, str]:
    """Whether the node normalises with the statistics of its batch, and what in the node says so."""
    if opset < 7:
        testing = bool(attribute(node, "is_test", 0))
        return not testing, f"is_test = {int(testing)}"
    if opset < 14:
        training = any(optional_output(node, index) is not None for index in range(1, 5))
        return training, "with training outputs" if training else "inference form"
    training = attribute(node, "training_mode", 0) == 1  # as ONNX Runtime reads it
    return training, "training_mode = 1" if training else "inference form"
