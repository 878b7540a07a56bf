"""Compares unbiased running variances as biased ones, which the original has."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnx_cbp.checking.graphs import nodes
from onnx_cbp.checking.models import Model
from onnx_cbp.custom_ops import DOMAIN

#: Our ops that update a running variance, and, for ops that take one variance, its position in the outputs.
_UPDATES = ("BatchNormTrainUpdate", "BatchNormReluTrainUpdate")
_VARIANCE = {"ChannelStats": 1, "ChannelStatsMerge": 1, "BatchNormTrain": 2}

NOTE = (
    "running variances are unbiased, as in PyTorch: count / (count - 1) of the batch's, which is left out in the "
    "comparison with the original's"
)


def is_unbiased(model: onnx.ModelProto) -> bool:
    """Whether the model updates a running variance by PyTorch's convention."""
    return any(True for _ in _switches(model))


def as_biased(model: Model) -> Model:
    """The model with ONNX's convention instead of PyTorch's, and no other change; the model itself if it has that."""
    if not is_unbiased(model.graph):
        return model
    copy = model.copy()
    for switch in _switches(copy):
        switch.i = 0
    return Model(model.what, copy, copy)


def _switches(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    """The attributes for that convention. At a running mean it would be an error and no convention, so not these."""
    made = list(nodes(model.graph.node))
    variances = {n.output[_VARIANCE[n.op_type]] for n in made if n.domain == DOMAIN and n.op_type in _VARIANCE}
    for node in made:
        if node.domain != DOMAIN:
            continue
        if node.op_type in _UPDATES or (node.op_type == "RunningStats" and node.input[1] in variances):
            yield from (a for a in node.attribute if a.name == "unbiased" and a.i)
