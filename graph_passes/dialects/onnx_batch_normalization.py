"""ONNX's own BatchNormalization, as exporters write it."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import (
    attribute,
    first_missing,
    optional_output,
    refers_to_function_attribute,
)
from onnx_cbp.graph_passes.sites import ForwardSite, LeftAlone, Site

_INPUTS = ("X", "scale", "B", "input_mean", "input_var")


def recognise(node: ir.Node, opset: int) -> Site | None:
    """The batch norm that `node` is, None if it is none. `opset` is that of the node's own domain."""
    if node.domain not in ("", "ai.onnx") or node.op_type != "BatchNormalization":
        return None
    referred = refers_to_function_attribute(node)
    if referred:
        form = "BatchNormalization"
        reason = f"attribute '{referred}' comes from the caller of a model-local function: inline the function first"
        return LeftAlone(node, form, reason)
    training, sign = _trains(node, opset)
    form = f"BatchNormalization-{opset} ({sign})"
    if not training:
        return LeftAlone(node, form, "it normalises with running statistics: there is nothing to train")
    missing = first_missing(node, _INPUTS)
    if missing or optional_output(node, 0) is None:
        return LeftAlone(node, form, f"'{missing or 'Y'}' is missing: the model is not valid ONNX")
    if opset < 9 and not attribute(node, "spatial", 1):
        reason = "spatial = 0 asks for statistics of every single activation: only those of a channel are supported"
        return LeftAlone(node, form, reason)
    X, scale, B, running_mean, running_var = node.inputs[:5]
    assert X is not None
    assert scale is not None
    assert B is not None
    return ForwardSite(
        node=node,
        form=form,
        axis=1,
        epsilon=attribute(node, "epsilon", 1e-5),
        momentum=attribute(node, "momentum", 0.9),
        X=X,
        scale=scale,
        B=B,
        running_mean=running_mean,
        running_var=running_var,
        Y=node.outputs[0],
        updated_mean=optional_output(node, 1),
        updated_var=optional_output(node, 2),
        saved_mean=optional_output(node, 3),
        saved_var=optional_output(node, 4),
        saved_inv_std=None,
        updates_in_place=False,
    )


def _trains(node: ir.Node, opset: int) -> tuple[bool, str]:
    """Whether the node normalises with the statistics of its batch, and by what it says so."""
    if opset < 7:
        testing = bool(attribute(node, "is_test", 0))
        return not testing, f"is_test = {int(testing)}"
    if opset < 14:
        training = any(optional_output(node, index) is not None for index in range(1, 5))
        return training, "with training outputs" if training else "inference form"
    training = bool(attribute(node, "training_mode", 0))
    return training, "training_mode = 1" if training else "inference form"
