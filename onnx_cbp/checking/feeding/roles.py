"""Finds the role of each input of a graph, so that it gets meaningful random values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import onnx

from onnx_cbp.checking.graphs import Dimension, GraphReader, fed_inputs, is_standard
from onnx_cbp.custom_ops import DOMAIN

_ORT = "com.microsoft"
_ACCUMULATORS = ("InPlaceAccumulator", "InPlaceAccumulatorV2")
#: Ops whose second input is a weight.
WEIGHT_READERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Batch norms before a rewrite.
BATCH_NORMS = ("BatchNormalization", "BatchNormInternal")
#: Losses over class indices: the input with the labels, and an input of shape [N, classes, ...].
_LOSSES = {
    "SoftmaxCrossEntropyLoss": (1, 0),
    "SoftmaxCrossEntropyLossInternal": (1, 0),
    "NegativeLogLikelihoodLoss": (1, 0),
    "NegativeLogLikelihoodLossInternal": (1, 0),
    "SoftmaxCrossEntropyLossGrad": (2, 1),
    "SoftmaxCrossEntropyLossInternalGrad": (2, 1),
}
_GATHERERS = ("Gather", "GatherElements", "ScatterElements")


class Kind(Enum):
    """What an input is."""

    DATA = "data"
    WEIGHT = "weight"
    SCALE = "scale of a batch norm"
    VARIANCE = "running variance"
    BUFFER = "gradient accumulation buffer"
    OVERWRITE = "flag: start the accumulation anew"
    INDEX = "class label or index"


@dataclass(frozen=True)
class Role:
    """The role of an input.

    Attributes:
        kind: the kind of its values.
        limit: indices stay below this.
        overwritten: a buffer whose old content the graph ignores if a flag is set.
    """

    kind: Kind
    limit: int = 2
    overwritten: bool = False


def find_roles(model: onnx.ModelProto, batch: int) -> dict[str, Role]:
    """The role of every input that a caller must give.

    Args:
        model: the original model, since a rewritten one has lost some of the clues.
        batch: the size of symbolic dimensions of inputs.
    """
    reader = GraphReader(model)
    symbols = {d.dim_param for value in fed_inputs(model) for d in value.type.tensor_type.shape.dim if d.dim_param}
    return {value.name: _role(value.name, reader, symbols, batch) for value in fed_inputs(model)}


def written_in_place(model: onnx.ModelProto) -> set[str]:
    """The inputs that the model updates: after a run, the caller's arrays hold results.

    Only nodes that should do so count. ONNX Runtime's BatchNormalization also overwrites the running statistics that it
    is fed with if their updated values are unused, but this is a bug (onnxruntime#29790) and no result.
    """
    fed = {value.name for value in fed_inputs(model)}
    written = set()
    for node in GraphReader(model).nodes():
        if node.domain == _ORT and node.op_type in _ACCUMULATORS:
            written.update(node.input[:1])
        if node.domain == _ORT and node.op_type == "BatchNormInternal":
            written.update(node.input[3:5])
    return written & fed


def _role(name: str, reader: GraphReader, symbols: set[str], batch: int) -> Role:
    uses = list(reader.uses(name))
    limits = [limit for node, index in uses for limit in _index_limits(node, index, reader)]
    if limits:
        numbers = [batch if d in symbols else d for d in limits]
        known = [d for d in numbers if isinstance(d, int)]
        return Role(Kind.INDEX, max(min(known), 1) if known else 2)
    if any(_is_variance(node, index, reader) for node, index in uses):
        return Role(Kind.VARIANCE)
    accumulated = [_is_accumulator(node) and index == 0 for node, index in uses]
    if uses and all(accumulated):
        flags = [
            node.input[2] if node.op_type == "InPlaceAccumulatorV2" and len(node.input) > 2 else "" for node, _ in uses
        ]
        return Role(Kind.BUFFER, overwritten=all(flags))
    if any(_is_accumulator(node) and index == 2 for node, index in uses):
        return Role(Kind.OVERWRITE)
    if any(node.op_type in BATCH_NORMS and index == 1 for node, index in uses):
        return Role(Kind.SCALE)
    if any(is_standard(node) and node.op_type in WEIGHT_READERS and index == 1 for node, index in uses):
        return Role(Kind.WEIGHT)
    return Role(Kind.DATA)


def _is_accumulator(node: onnx.NodeProto) -> bool:
    return node.domain == _ORT and node.op_type in _ACCUMULATORS


def _is_variance(node: onnx.NodeProto, index: int, reader: GraphReader) -> bool:
    """Whether the input must be positive: a variance, or 1 / sqrt(variance)."""
    if node.op_type in (*BATCH_NORMS, "BatchNormalizationGrad", "ChannelNormalize"):
        return index == 4
    if node.domain != DOMAIN or node.op_type != "RunningStats" or index != 0:
        return False
    batch = reader.producer(node.input[1])
    return batch is not None and batch.op_type == "ChannelStats" and node.input[1] == batch.output[1]


def _index_limits(node: onnx.NodeProto, index: int, reader: GraphReader) -> Iterator[Dimension]:
    """The limits of the input as an index; None for an index without a known limit."""
    labels, scores = _LOSSES.get(node.op_type, (None, 0))
    if index == labels:
        yield _classes(node, scores, reader)
    elif is_standard(node) and node.op_type in _GATHERERS and index == 1:
        shape = reader.shape(node.input[0])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        yield shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    elif is_standard(node) and node.op_type == "OneHot" and index == 0:
        depth = reader.constant(node.input[1])
        yield None if depth is None else int(onnx.numpy_helper.to_array(depth).reshape(-1)[0])


def _classes(node: onnx.NodeProto, scores: int, reader: GraphReader) -> Dimension:
    """The number of classes: axis 1 of the scores, or of anything else with their shape."""
    # The second output of a loss has the shape of the scores, and so has the only output of its gradient.
    for name in (node.input[scores], *node.output[::-1]):
        shape = reader.shape(name) if name else None
        if shape is not None and len(shape) >= 2 and shape[1] is not None:
            return shape[1]
    return None
