"""Writes a batch norm without running statistics in ONNX's own ops: it normalises with those of its batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import ForwardSite, LeftAlone, Site, in_graph, label
from onnx_cbp.graph_passes.core.splice import Splice, origin, statistics_type
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects._reading import attribute
from onnx_cbp.graph_passes.dialects.channel_ops import never_had_running_statistics

_REDUCED_AXES_ARE_INPUTS_SINCE = 18
_BATCH_NORM = "BatchNormalization"


@dataclass(frozen=True)
class OfItsBatch:
    """A batch norm without running statistics.

    Attributes:
        node: the node.
        axis, epsilon, X, scale, B, Y: as in `ForwardSite`.
        in_onnx: whether it already consists of ONNX's ops, which compute the same at inference as in training.
    """

    node: ir.Node
    axis: int
    epsilon: float
    X: ir.Value
    scale: ir.Value
    B: ir.Value
    Y: ir.Value
    in_onnx: bool


def of_its_batch(site: Site) -> OfItsBatch | None:
    """The site as a batch norm without running statistics; None if it has some, or uses those of other replicas."""
    if isinstance(site, ForwardSite) and (site.running_mean is None or site.running_var is None):
        given = (site.node, site.axis, site.epsilon, site.X, site.scale, site.B, site.Y)
        return OfItsBatch(*given, in_onnx=_computes_the_same(site.node))
    node = site.node
    if not isinstance(site, LeftAlone) or node.domain != DOMAIN or not _takes_statistics(node):
        return None
    X, scale, B = node.inputs[:3]
    if X is None or scale is None or B is None:
        return None
    axis, epsilon = node.attributes["axis"].as_int(), node.attributes["epsilon"].as_float()
    return OfItsBatch(node, axis, epsilon, X, scale, B, node.outputs[0], in_onnx=False)


def _computes_the_same(node: ir.Node) -> bool:
    return node.domain == "" and (node.op_type != _BATCH_NORM or not attribute(node, "training_mode", 0))


def _takes_statistics(node: ir.Node) -> bool:
    """Whether one of our ops normalises X with the statistics of X, from this replica only, as the original did."""
    if not never_had_running_statistics(node):
        return False
    if node.op_type != "ChannelNormalize":
        return node.op_type == "BatchNormTrain"
    makers = {None if value is None else origin(value) for value in node.inputs[3:5]}
    maker = makers.pop() if len(makers) == 1 else None
    return maker is not None and maker.op_type == "ChannelStats" and maker.inputs[0] is node.inputs[0]


def write_in_onnx(site: OfItsBatch, opset: int, splice: Splice, types: Types) -> ir.Value:
    """Compute Y = (X - mean) / sqrt(var + epsilon) * scale + B, with the mean and variance of X.

    The type is that of the statistics: float, or double for double. Returns the new Y.

    Raises:
        OnnxCbpError: the rank of X is not known.
    """
    shape = types.shape(site.X)
    if not shape:
        raise OnnxCbpError(
            f"node '{label(site.node)}': the rank of '{site.X.name}' is not known: "
            "run onnx.shape_inference on the model first"
        )
    dtype = statistics_type(site.scale, types)
    rank = len(shape)
    channels = site.axis % rank
    axes = [axis for axis in range(rank) if axis != channels]
    along = [-1 if axis == channels else 1 for axis in range(rank)]

    def op(op_type: str, *inputs: ir.Value) -> ir.Value:
        return splice.add(op_type, inputs, ((op_type.lower(), dtype, None),))[0]

    def mean(value: ir.Value) -> ir.Value:
        made = (("mean", dtype, None),)
        if opset >= _REDUCED_AXES_ARE_INPUTS_SINCE:
            reduced = splice.constant("axes", ir.tensor(np.array(axes, np.int64)))
            return splice.add("ReduceMean", (value, reduced), made)[0]
        return splice.add("ReduceMean", (value,), made, {"axes": axes})[0]

    def spread(value: ir.Value, name: str) -> ir.Value:
        vector = splice.cast(in_graph(value), dtype, name)
        sizes = splice.constant(f"{name}_shape", ir.tensor(np.array(along, np.int64)))
        return splice.add("Reshape", (vector, sizes), ((f"{name}_along", dtype, None),))[0]

    X = splice.cast(site.X, dtype, "X")
    centred = op("Sub", X, mean(X))
    epsilon = splice.constant("epsilon", ir.tensor(np.asarray(site.epsilon, np.float32).astype(dtype.numpy())))
    std = op("Sqrt", op("Add", mean(op("Mul", centred, centred)), epsilon))
    Y = op("Add", op("Mul", op("Div", centred, std), spread(site.scale, "scale")), spread(site.B, "B"))
    own = types.of(site.X)
    return splice.hand_over(site.Y, Y if own is None else splice.cast(Y, own, "Y"), own)
