"""Sums the gradients of parameters over all replicas, many in one message."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError, foreign
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.scopes import import_domain
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Draft, Names, short
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import is_gradient_accumulator
from onnx_cbp.graph_passes.distributing.synchronize import WORLD
from onnx_cbp.graph_passes.stepping.training_graph import TrainingGraph

#: Megabytes (2^20 bytes) of gradients in one message, as in PyTorch's DistributedDataParallel.
BUCKET_CAP_MB = 25.0
_SPLIT_INPUT_SINCE = 13
_REDUCED = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


class ReduceGradientsPass(InPlacePass):
    """Sums every gradient over all replicas, before it is added to its accumulator's buffer, or becomes an output.

        gradients = Split(AllReduceBucket(Concat(gradients of this replica)))

    A message has gradients of one type, in the order in which the graph computes them, up to `bucket_cap_mb`. Gradients
    of 16-bit types are sent as floats. Readers of a gradient other than the accumulator still get this replica's own.
    """

    def __init__(self, bucket_cap_mb: float = BUCKET_CAP_MB) -> None:
        super().__init__()
        if not (isinstance(bucket_cap_mb, (int, float)) and bucket_cap_mb > 0):
            raise OnnxCbpError(f"bucket_cap_mb is {bucket_cap_mb!r}; it must be a number of megabytes above 0")
        self._cap = bucket_cap_mb * 2**20

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place.

        Raises:
            OnnxCbpError: a gradient's shape is not known, or some of the gradients are reduced already.
        """
        graph = model.graph
        described = TrainingGraph.of(model)
        made = {node: position for position, node in enumerate(graph)}
        gradients = sorted(_gradients(graph, described), key=lambda gradient: gradient.position(made))
        done = [gradient for gradient in gradients if gradient.is_reduced()]
        if len(done) == len(gradients):
            return PassResult(model, modified=False)
        if done:
            raise OnnxCbpError(
                f"the gradient '{done[0].value.name}' is reduced over the replicas already, and others are not: start "
                "from the original model"
            )
        names, types = Names(model), Types(model)
        buckets = self._buckets(gradients)
        for number, bucket in enumerate(buckets):
            draft = Draft(f"gradients{number}", names, types)
            first, last = (short(gradient.value.name or "") for gradient in (bucket[0], bucket[-1]))
            layer = f"gradients {number + 1} of {len(buckets)}, '{first}' to '{last}'"
            reduced = _reduce(bucket, layer, onnx_opset(model.opset_imports), draft)
            readers = [reader for gradient in bucket for reader in gradient.accumulators]
            if readers:
                graph.insert_before(min(readers, key=lambda node: made[node]), draft.nodes)
            else:
                graph.extend(draft.nodes)
            for gradient, new in zip(bucket, reduced, strict=True):
                for reader in gradient.accumulators:
                    reader.replace_input_with(1, new)
                if gradient.is_output:
                    _make_output(graph, gradient.value, new, names)
        with foreign("data_parallel: a gradient is made of another one's accumulator, and goes in one message with it"):
            graph.sort()  # an accumulator may have come before the last gradient of its bucket
        import_domain(model)
        return PassResult(model, modified=True)

    def _buckets(self, gradients: list[_Gradient]) -> list[list[_Gradient]]:
        """Gradients by message; a gradient that is larger than a message has its own."""
        buckets: list[list[_Gradient]] = []
        last: dict[ir.DataType, tuple[list[_Gradient], float]] = {}  # for each type, the message to go on with
        for gradient in gradients:
            size = gradient.elements * gradient.travels_as.itemsize
            bucket, full = last.get(gradient.travels_as, ([], math.inf))
            if full + size > self._cap:
                bucket, full = [], 0.0
                buckets.append(bucket)
            bucket.append(gradient)
            last[gradient.travels_as] = bucket, full + size
        return buckets


@dataclass(frozen=True)
class _Gradient:
    """A gradient that is accumulated.

    Attributes:
        value: the gradient.
        accumulators: the nodes that add it to buffers.
        dtype, shape: those of the buffer, which the graph states even if inference cannot follow a gradient.
        is_output: whether it is an output of a training graph of ours, which has no buffers.
    """

    value: ir.Value
    accumulators: list[ir.Node]
    dtype: ir.DataType
    shape: tuple[int, ...]
    is_output: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def travels_as(self) -> ir.DataType:
        return self.dtype if self.dtype in _REDUCED else ir.DataType.FLOAT

    def position(self, made: dict[ir.Node, int]) -> int:
        """The place in the graph where it is computed."""
        node = self.value.producer()
        return -1 if node is None else made.get(node, -1)

    def is_reduced(self) -> bool:
        node = self.value.producer()
        while node is not None and node.domain == "" and node.op_type in ("Reshape", "Split", "Cast"):
            source = node.inputs[0]
            node = None if source is None else source.producer()
        return node is not None and (node.domain, node.op_type) == (DOMAIN, "AllReduceBucket")


def _gradients(graph: ir.Graph, described: TrainingGraph | None) -> list[_Gradient]:
    if described is not None:
        outputs = {value.name: value for value in graph.outputs}
        parameters = {v.name: v for v in (*graph.inputs, *graph.initializers.values())}
        return [_output(outputs.get(name), parameters.get(each), each) for each, name in described.gradients.items()]
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        value = node.inputs[1] if is_gradient_accumulator(node) else None
        if value is not None:
            readers.setdefault(value, []).append(node)
    return [_gradient(value, accumulators) for value, accumulators in readers.items()]


def _output(value: ir.Value | None, parameter: ir.Value | None, name: str) -> _Gradient:
    if value is None or parameter is None or parameter.dtype is None or parameter.shape is None:
        raise OnnxCbpError(
            f"data_parallel: the model's metadata names the parameter '{name}', and the graph has no such parameter of "
            "known type and shape, or not its gradient"
        )
    return _Gradient(value, [], parameter.dtype, tuple(parameter.shape.numpy()), is_output=True)


def _make_output(graph: ir.Graph, old: ir.Value, new: ir.Value, names: Names) -> None:
    """Make a value the output that another value was, under its name."""
    for index, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[index] = new
    name = old.name or ""
    old.name = names.fresh(f"{name}_own")
    new.name = name


def _gradient(value: ir.Value, accumulators: list[ir.Node]) -> _Gradient:
    buffer = accumulators[0].inputs[0]
    assert buffer is not None
    if buffer.dtype is None or buffer.shape is None or not buffer.shape.is_static():
        raise OnnxCbpError(
            f"node '{label(accumulators[0])}': the shape of '{buffer.name}' is not known: data_parallel needs what "
            "ONNX Runtime's gradient builder writes"
        )
    return _Gradient(value, accumulators, buffer.dtype, tuple(buffer.shape.numpy()))


def _reduce(gradients: list[_Gradient], layer: str, opset: int, draft: Draft) -> list[ir.Value]:
    """The reduced gradients of one message."""
    dtype = gradients[0].travels_as
    flat: list[ir.Value] = []
    minus_one = draft.constant("vector_shape", ir.tensor(np.array([-1], np.int64)))
    for gradient in gradients:
        value = _as(dtype, gradient.value, gradient.dtype, "wide", draft)
        flat += draft.add("Reshape", (value, minus_one), (("vector", dtype, ir.Shape((gradient.elements,))),))
    sizes = [gradient.elements for gradient in gradients]
    total = ir.Shape((sum(sizes),))
    bucket = flat[0]
    if len(flat) > 1:
        (bucket,) = draft.add("Concat", flat, (("bucket", dtype, total),), {"axis": 0})
    pieces = draft.channel_op(
        "AllReduceBucket", (bucket,), (("reduced", dtype, total),), group=WORLD, reduction="sum", layer=layer
    )
    if len(flat) > 1:
        outputs = [("piece", dtype, ir.Shape((size,))) for size in sizes]
        if opset >= _SPLIT_INPUT_SINCE:
            lengths = draft.constant("sizes", ir.tensor(np.array(sizes, np.int64)))
            pieces = draft.add("Split", (*pieces, lengths), outputs, {"axis": 0})
        else:
            pieces = draft.add("Split", pieces, outputs, {"axis": 0, "split": sizes})
    reduced = []
    for gradient, piece in zip(gradients, pieces, strict=True):
        shape = draft.constant("shape", ir.tensor(np.array(gradient.shape, np.int64)))
        (value,) = draft.add("Reshape", (piece, shape), ((f"{gradient.value.name}", dtype, ir.Shape(gradient.shape)),))
        reduced.append(_as(gradient.dtype, value, dtype, f"{gradient.value.name}_as_before", draft))
    return reduced


def _as(dtype: ir.DataType, value: ir.Value, own: ir.DataType, suffix: str, draft: Draft) -> ir.Value:
    """A value, converted to a type if it has another."""
    if dtype == own:
        return value
    return draft.add("Cast", (value,), ((suffix, dtype, value.shape),), {"to": dtype.value})[0]
