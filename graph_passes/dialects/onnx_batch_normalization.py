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

_TRAINING_MODE_SINCE = 14
_INPUTS = ("X", "scale", "B", "input_mean", "input_var")


def recognise(node: ir.Node, opset: int) -> Site | None:
    """The batch norm that `node` is, None if it is none. `opset` is that of the node's own domain."""
    if node.domain not in ("", "ai.onnx") or node.op_type != "BatchNormalization":
        return None
    if opset < _TRAINING_MODE_SINCE:
        training = any(optional_output(node, index) is not None for index in (1, 2, 3, 4))
        form = f"BatchNormalization-{opset} ({'training' if training else 'inference'} form)"
        if not training:
            return _inference(node, form)
        return LeftAlone(
            node,
            form,
            f"the training form of opset {opset} is not supported yet: convert the model to opset 14 or newer",
        )
    referred = refers_to_function_attribute(node)
    if referred:
        return LeftAlone(
            node,
            "BatchNormalization",
            f"attribute '{referred}' comes from the caller of a model-local function: inline the function first",
        )
    if not attribute(node, "training_mode", 0):
        return _inference(node, "BatchNormalization (inference form)")
    form = "BatchNormalization (training_mode = 1)"
    missing = first_missing(node, _INPUTS)
    if missing or optional_output(node, 0) is None:
        return LeftAlone(node, form, f"'{missing or 'Y'}' is missing: the model is not valid ONNX")
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
        saved_mean=None,
        saved_inv_std=None,
        updates_in_place=False,
    )


def _inference(node: ir.Node, form: str) -> LeftAlone:
    return LeftAlone(node, form, "it normalises with running statistics: there is nothing to train")
