"""Our own ops, so that a rewritten model's batch norms are still listed."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.dialects._reading import optional_input
from onnx_cbp.graph_passes.sites import LeftAlone, Site
from onnx_cbp.graph_passes.splice import origin

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
    return node.domain == DOMAIN and _ONE_A_SITE.get(node.op_type) == "forward" and not _is_gradient(node)


def is_frozen_forward(node: ir.Node) -> bool:
    """Whether the node is the forward pass of a frozen batch norm: its statistics are not made of a batch."""
    if (node.domain, node.op_type) != (DOMAIN, "ChannelNormalize") or _is_gradient(node):
        return False
    mean = optional_input(node, 3)
    maker = None if mean is None else origin(mean)
    return maker is None or maker.domain != DOMAIN


def running_statistics(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """Those that one of our ops updates: the index of its input, which is that of its output too, and the value.

    The value is the one of which the input is a copy in another type.
    """
    if node.domain != DOMAIN or node.op_type not in ("BatchNormTrainUpdate", "BatchNormReluTrainUpdate"):
        return []
    found = []
    for index in (3, 4):
        value = optional_input(node, index)
        maker = None if value is None else value.producer()
        if maker is not None and (maker.domain, maker.op_type) == ("", "Cast"):
            value = maker.inputs[0]
        if value is not None:
            found.append((index, value))
    return found


def _is_gradient(node: ir.Node) -> bool:
    """Whether a ChannelNormalize is the gradient of a frozen batch norm: B and mean are the same zeros."""
    B = optional_input(node, 2)
    maker = None if B is None or B is not optional_input(node, 3) else B.producer()
    return maker is not None and maker.op_type == "ConstantOfShape"


def _is_listed(node: ir.Node) -> bool:
    """Whether a gradient of a frozen batch norm has no other op by which it is listed."""
    dY = node.inputs[0]
    readers = () if dY is None else dY.uses()
    return not any((use.node.op_type, use.idx) == ("ChannelBackpropStats", 3) for use in readers)


def recognise(node: ir.Node, opset: int) -> Site | None:  # noqa: ARG001 - one signature for every dialect
    """A rewritten batch norm by the one op that each has of its kind."""
    if node.domain != DOMAIN or node.op_type not in _ONE_A_SITE:
        return None
    kind = _ONE_A_SITE[node.op_type]
    if node.op_type == "ChannelNormalize" and _is_gradient(node):
        if not _is_listed(node):
            return None
        kind = "backward, frozen"
    elif is_frozen_forward(node):
        kind = "forward, frozen"
    return LeftAlone(node, f"{DOMAIN} ops ({kind})", "it is rewritten already")
