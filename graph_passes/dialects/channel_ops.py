"""Reads our own ops, so that the batch norms of a rewritten model are listed too."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.sites import ForwardSite, Rewritten, Site
from onnx_cbp.graph_passes.core.splice import origin
from onnx_cbp.graph_passes.dialects._reading import optional_input

#: In the metadata of our forward ops: whether the original batch norm had running statistics. An op whose running
#: statistics nothing reads looks like one that never had any, but only the latter uses batch statistics at inference.
_RUNNING_STATISTICS, _NONE = f"{DOMAIN}.running_statistics", "none"

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
    """Whether the node is the main op of a rewritten batch norm's forward pass."""
    return node.domain == DOMAIN and _ONE_A_SITE.get(node.op_type) == "forward" and not _is_gradient(node)


def is_frozen_forward(node: ir.Node) -> bool:
    """Whether the node is the forward pass of a frozen batch norm, whose statistics do not come from a batch."""
    if (node.domain, node.op_type) != (DOMAIN, "ChannelNormalize") or _is_gradient(node):
        return False
    mean = optional_input(node, 3)
    maker = None if mean is None else origin(mean)
    return maker is None or maker.domain != DOMAIN


def never_had_running_statistics(node: ir.Node) -> bool:
    """Whether the original batch norm of one of our forward ops had no running statistics."""
    return node.metadata_props.get(_RUNNING_STATISTICS) == _NONE


def say_without_running_statistics(node: ir.Node) -> None:
    """Record that the original batch norm of one of our forward ops had no running statistics."""
    node.metadata_props[_RUNNING_STATISTICS] = _NONE


def running_statistics(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """The running statistics that one of our ops updates: each with the index of its input, which is also its output's.

    The value is the original one, if the input is a copy of it in another type.
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


def averaged(updated: ir.Value) -> ir.Value | None:
    """The cumulative average that follows the result of a step with momentum 0; None if there is none.

    running * (1 - part) + updated * part
    """
    for new in _readers(updated, "Mul"):
        part = next((value for value in new.inputs if value is not updated), None)
        for total in _readers(new.outputs[0], "Add"):
            old = next((value for value in total.inputs if value is not new.outputs[0]), None)
            kept = _maker(old, "Mul")
            if kept is not None and any((s := _maker(v, "Sub")) and part in s.inputs for v in kept.inputs):
                return total.outputs[0]
    return None


def is_cumulative(node: ir.Node) -> bool:
    """Whether the running statistics of a rewritten batch norm are the average over all batches."""
    read = rewritten_site(node) if is_rewritten_forward(node) else None
    return read is not None and read[0].updated_mean is not None and _maker(read[0].updated_mean, "Add") is not None


def counted(node: ir.Node) -> ir.Value | None:
    """How many batches a rewritten batch norm that averages them has seen after the step; None for any other node."""
    if not is_cumulative(node):
        return None
    read = rewritten_site(node)
    value = None if read is None else read[0].updated_mean
    for op_type, index in (("Add", 0), ("Mul", 1), ("Sub", 1), ("Cast", 0), ("Div", 1), ("Max", 0)):
        maker = _maker(value, op_type)
        if maker is not None:
            value = maker.inputs[index]
        elif op_type != "Cast":
            return None
    return value


def _readers(value: ir.Value, op_type: str) -> list[ir.Node]:
    return [use.node for use in value.uses() if (use.node.domain, use.node.op_type) == ("", op_type)]


def _maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and (node.domain, node.op_type) == ("", op_type) else None


def _is_gradient(node: ir.Node) -> bool:
    """Whether a ChannelNormalize is the gradient of a frozen batch norm: B and mean are the same zeros."""
    B = optional_input(node, 2)
    maker = None if B is None or B is not optional_input(node, 3) else B.producer()
    return maker is not None and maker.op_type == "ConstantOfShape"


def _is_listed(node: ir.Node) -> bool:
    """Whether a gradient of a frozen batch norm has no other op under which it is listed."""
    dY = node.inputs[0]
    readers = () if dY is None else dY.uses()
    return not any((use.node.op_type, use.idx) == ("ChannelBackpropStats", 3) for use in readers)


def recognise(node: ir.Node, opset: int) -> Site | None:  # noqa: ARG001 - one signature for every dialect
    """A rewritten batch norm, recognised by one op of each kind that it has."""
    if node.domain != DOMAIN or node.op_type not in _ONE_A_SITE:
        return None
    kind = _ONE_A_SITE[node.op_type]
    if node.op_type == "ChannelNormalize" and _is_gradient(node):
        if not _is_listed(node):
            return None
        kind = "backward, frozen"
    elif is_frozen_forward(node):
        kind = "forward, frozen"
    return Rewritten(node, f"{DOMAIN} ops ({kind})", "it is rewritten already")


def rewritten_site(node: ir.Node) -> tuple[ForwardSite, bool] | None:
    """The forward op of a rewritten batch norm, read as a batch norm again, and whether it includes a Relu.

    None if it has no running statistics. Saved statistics are not read.
    """
    folded = node.op_type == "BatchNormReluTrainUpdate"
    if folded or node.op_type == "BatchNormTrainUpdate":
        X, scale, B, running_mean, running_var = node.inputs
        updated = tuple(node.outputs[3:5])
        momentum = node.attributes["momentum"].as_float()
        relu = folded or bool(node.attributes["relu"].as_int())
    else:
        X, scale, B = node.inputs[:3]
        batch = node.inputs[3:5] if node.op_type == "ChannelNormalize" else node.outputs[1:3]
        steps = [_running_stats(value) for value in batch]
        if steps[0] is None or steps[1] is None:
            return None
        running_mean, running_var = (step.inputs[0] for step in steps if step is not None)
        updated = tuple(step.outputs[0] for step in steps if step is not None)
        momentum = steps[0].attributes["momentum"].as_float()
        relu = False
    assert X is not None
    assert scale is not None
    assert B is not None
    if momentum == 0:
        updated = tuple(averaged(value) or value for value in updated)
    site = ForwardSite(
        node=node,
        form=f"{DOMAIN} ops (forward)",
        axis=node.attributes["axis"].as_int(),
        epsilon=node.attributes["epsilon"].as_float(),
        momentum=momentum,
        X=X,
        scale=scale,
        B=B,
        running_mean=running_mean,
        running_var=running_var,
        Y=node.outputs[0],
        updated_mean=updated[0],
        updated_var=updated[1],
        saved_mean=None,
        saved_var=None,
        saved_inv_std=None,
        updates_in_place=False,
    )
    return site, relu


def _running_stats(batch: ir.Value | None) -> ir.Node | None:
    """The node that moves a running statistic towards that of a batch."""
    readers = [] if batch is None else [use.node for use in batch.uses()]
    return next(
        (n for n in readers if (n.domain, n.op_type) == (DOMAIN, "RunningStats") and n.inputs[1] is batch), None
    )
