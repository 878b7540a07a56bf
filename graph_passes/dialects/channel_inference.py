"""Reads our own ops as they act at inference: as a batch norm with running statistics."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.sites import InferenceSite, LeftAlone
from onnx_cbp.graph_passes.dialects._reading import first_missing
from onnx_cbp.graph_passes.dialects.channel_ops import averaged, is_frozen_forward, is_rewritten_forward, rewritten_site

_UPDATING = ("BatchNormTrainUpdate", "BatchNormReluTrainUpdate")
_FORM = f"{DOMAIN} ops (forward)"


def inference_form(node: ir.Node) -> tuple[InferenceSite, bool] | LeftAlone | None:
    """The batch norm that one of our forward ops is at inference, and whether it includes a Relu.

    None if the node is not such an op; `LeftAlone` if the model does not have its running statistics. Momentum has no
    meaning at inference, and gets ONNX's default.
    """
    if not is_rewritten_forward(node):
        return None
    missing = first_missing(node, ("X", "scale", "B"))
    if missing:
        return LeftAlone(node, _FORM, f"'{missing}' is missing: the model is not valid")
    if is_frozen_forward(node):
        X, scale, B, mean, var = node.inputs
        relu = False
    else:
        read = rewritten_site(node)
        if read is None:
            reason = "its running statistics are not in the model: take the model that it was rewritten from"
            return LeftAlone(node, _FORM, reason)
        site, relu = read
        X, scale, B, mean, var = site.X, site.scale, site.B, site.running_mean, site.running_var
    assert X is not None
    assert scale is not None
    assert B is not None
    assert mean is not None
    assert var is not None
    axis, epsilon = node.attributes["axis"].as_int(), node.attributes["epsilon"].as_float()
    return InferenceSite(node, _FORM, axis, epsilon, 0.9, X, scale, B, mean, var, node.outputs[0]), relu


def running_updates(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """(after the step, before the step) for each running statistic that one of our ops updates."""
    if node.domain != DOMAIN:
        return
    pairs = ((0, 0),) if node.op_type == "RunningStats" else ((3, 3), (4, 4)) if node.op_type in _UPDATING else ()
    for after, before in pairs:
        value = node.inputs[before]
        if value is not None:
            yield node.outputs[after], value
            if (average := averaged(node.outputs[after])) is not None:
                yield average, value
