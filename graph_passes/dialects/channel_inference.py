"""Our own ops read as what they are at inference: a batch norm with running statistics."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.dialects._reading import first_missing
from onnx_cbp.graph_passes.dialects.channel_ops import is_rewritten_forward
from onnx_cbp.graph_passes.sites import InferenceSite, LeftAlone

_UPDATING = ("BatchNormTrainUpdate", "BatchNormReluTrainUpdate")
_STATISTICS = ("ChannelStats", "ChannelStatsMerge")
_FORM = f"{DOMAIN} ops (forward)"


def inference_form(node: ir.Node) -> tuple[InferenceSite, bool] | LeftAlone | None:
    """The batch norm that one of our forward ops is at inference, and whether a Relu is folded into it.

    None if the node is no such op; `LeftAlone` where the model does not say its running statistics. Momentum has no
    meaning at inference and is ONNX's default.
    """
    if not is_rewritten_forward(node):
        return None
    missing = first_missing(node, ("X", "scale", "B"))
    statistics = None if missing else _statistics(node)
    if statistics is None:
        reason = f"'{missing}' is missing: the model is not valid"
        if not missing:
            reason = "its running statistics are not in the model: take the model that it was rewritten from"
        return LeftAlone(node, _FORM, reason)
    X, scale, B = node.inputs[:3]
    assert X is not None
    assert scale is not None
    assert B is not None
    mean, var = statistics
    axis, epsilon = node.attributes["axis"].as_int(), node.attributes["epsilon"].as_float()
    site = InferenceSite(node, _FORM, axis, epsilon, 0.9, X, scale, B, mean, var, node.outputs[0])
    relu = node.attributes.get("relu")
    return site, node.op_type == "BatchNormReluTrainUpdate" or (relu is not None and bool(relu.as_int()))


def running_updates(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """(after the step, before it) of each running statistic that one of our ops updates."""
    if node.domain != DOMAIN:
        return
    pairs = ((0, 0),) if node.op_type == "RunningStats" else ((3, 3), (4, 4)) if node.op_type in _UPDATING else ()
    for after, before in pairs:
        value = node.inputs[before]
        if value is not None:
            yield node.outputs[after], value


def _statistics(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The running mean and variance; None where the model does not say which they are."""
    if node.op_type == "ChannelNormalize":
        mean, var = node.inputs[3:5]
        producer = None if mean is None else mean.producer()
        if producer is None or producer.domain != DOMAIN or producer.op_type not in _STATISTICS:
            return None if mean is None or var is None else (mean, var)  # it has running statistics already
    elif node.op_type in _UPDATING:
        mean, var = node.inputs[3:5]
        return None if mean is None or var is None else (mean, var)
    else:
        mean, var = node.outputs[1:3]
    before = [_followed(value) for value in (mean, var)]
    return None if before[0] is None or before[1] is None else (before[0], before[1])


def _followed(batch: ir.Value | None) -> ir.Value | None:
    """The running statistic that goes on to follow a statistic of the batch."""
    if batch is None:
        return None
    for use in batch.uses():
        if (use.node.domain, use.node.op_type, use.idx) == (DOMAIN, "RunningStats", 1):
            return use.node.inputs[0]
    return None
