"""Our own ops, so that a rewritten model's batch norms are still listed."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.sites import LeftAlone, Site

_ONE_A_SITE = {
    "ChannelNormalize": "forward",
    "BatchNormTrain": "forward",
    "BatchNormTrainUpdate": "forward",
    "BatchNormReluTrainUpdate": "forward",
    "ChannelBackpropStats": "backward",
    "BatchNormGrad": "backward",
    "BatchNormReluGrad": "backward",
    "BatchNormRecomputeReluGrad": "backward",
}


def is_rewritten_forward(node: ir.Node) -> bool:
    """Whether the node is the one op that a rewritten batch norm has in its forward pass."""
    return node.domain == DOMAIN and _ONE_A_SITE.get(node.op_type) == "forward"


def recognise(node: ir.Node, opset: int) -> Site | None:  # noqa: ARG001 - one signature for every dialect
    """A rewritten batch norm by the one op that each has of its kind."""
    if node.domain != DOMAIN or node.op_type not in _ONE_A_SITE:
        return None
    return LeftAlone(node, f"{DOMAIN} ops ({_ONE_A_SITE[node.op_type]})", "it is rewritten already")
