"""Sums the gradients of parameters over all replicas, many in one message."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.dialects import is_gradient_accumulator
from onnx_cbp.graph_passes.scopes import import_domain
from onnx_cbp.graph_passes.sites import label
from onnx_cbp.graph_passes.splice import Draft, Names
from onnx_cbp.graph_passes.synchronize import WORLD
from onnx_cbp.graph_passes.types import Types

#: Megabytes (2^20 bytes) of gradients in one message, as in PyTorch's DistributedDataParallel.
BUCKET_CAP_MB = 25.0
_SPLIT_INPUT_SINCE = 13
_REDUCED = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


class ReduceGradientsPass(InPlacePass):
    """Every gradient is summed over all replicas before it is added to its accumulator's buffer.

        gradients = Split(AllReduceBucket(Concat(gradients of this replica)))

    A message has gradients of one type, in the order in which the graph makes them, up to `bucket_cap_mb`. Those of
    16-bit types travel as floats. Other readers of a gradient than the accumulator still get this replica's own.
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
        types = Types(model)
        accumulators: dict[ir.Value, list[ir.Node]] = {}
        for node in graph:
            if is_gradient_accumulator(node):
                gradient = node.inputs[1]
                assert gradient is not None
                accumulators.setdefault(gradient, []).append(node)
        done = [gradient for gradient in accumulators if _is_reduced(gradient)]
        if len(done) == len(accumulators):
            return PassResult(model, modified=False)
        if done:
            raise OnnxCbpError(
                f"the gradient '{done[0].name}' is reduced over the replicas already, and others are not: start "
                "from the original model"
            )
        made = {node: position for position, node in enumerate(graph)}
        order = sorted(accumulators, key=lambda gradient: made.get(gradient.producer(), -1))  # type: ignore[arg-type]
        shapes = {gradient: _shape(gradient, readers[0]) for gradient, readers in accumulators.items()}
        buckets = self._buckets(order, shapes, types)
        names = Names(model)
        for number, bucket in enumerate(buckets):
            draft = Draft(f"gradients{number}", names, types)
            layer = f"gradients {number + 1} of {len(buckets)}, '{bucket[0].name}' to '{bucket[-1].name}'"
            opset = model.opset_imports.get("", 0)
            reduced = _reduce(bucket, [shapes[gradient] for gradient in bucket], layer, opset, draft, types)
            readers = [reader for gradient in bucket for reader in accumulators[gradient]]
            graph.insert_before(min(readers, key=lambda node: made[node]), draft.nodes)
            for gradient, new in zip(bucket, reduced, strict=True):
                for reader in accumulators[gradient]:
                    reader.replace_input_with(1, new)
        graph.sort()  # an accumulator may have stood before the last gradient of its bucket
        import_domain(model)
        return PassResult(model, modified=True)

    def _buckets(
        self, gradients: list[ir.Value], shapes: dict[ir.Value, tuple[int, ...]], types: Types
    ) -> list[list[ir.Value]]:
        """Gradients by message; one that is larger than a message alone."""
        buckets: list[list[ir.Value]] = []
        last: dict[ir.DataType, tuple[list[ir.Value], float]] = {}  # the message that each type's gradients go on in
        for gradient in gradients:
            dtype = _travels_as(gradient, types)
            size = math.prod(shapes[gradient]) * dtype.itemsize
            bucket, full = last.get(dtype, ([], math.inf))
            if full + size > self._cap:
                bucket, full = [], 0.0
                buckets.append(bucket)
            bucket.append(gradient)
            last[dtype] = bucket, full + size
        return buckets


def _is_reduced(gradient: ir.Value) -> bool:
    node = gradient.producer()
    while node is not None and node.domain == "" and node.op_type in ("Reshape", "Split", "Cast") and node.inputs[0]:
        node = node.inputs[0].producer()
    return node is not None and (node.domain, node.op_type) == (DOMAIN, "AllReduceBucket")


def _shape(gradient: ir.Value, accumulator: ir.Node) -> tuple[int, ...]:
    for value in (accumulator.inputs[0], gradient):
        if value is not None and value.shape is not None and value.shape.is_static():
            return tuple(value.shape.numpy())
    raise OnnxCbpError(
        f"node '{label(accumulator)}': the shape of the gradient '{gradient.name}' is not known: run "
        "onnx.shape_inference on the model first"
    )


def _travels_as(gradient: ir.Value, types: Types) -> ir.DataType:
    dtype = types.of(gradient)
    return dtype if dtype in _REDUCED else ir.DataType.FLOAT


def _reduce(
    gradients: list[ir.Value], shapes: list[tuple[int, ...]], layer: str, opset: int, draft: Draft, types: Types
) -> list[ir.Value]:
    """The reduced values of gradients that travel in one message."""
    dtype = _travels_as(gradients[0], types)
    sizes = [math.prod(shape) for shape in shapes]
    flat: list[ir.Value] = []
    minus_one = draft.constant("vector_shape", ir.tensor(np.array([-1], np.int64)))
    for gradient, size in zip(gradients, sizes, strict=True):
        value = draft.cast(gradient, dtype, "wide")
        flat += draft.add("Reshape", (value, minus_one), (("vector", dtype, ir.Shape((size,))),))
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
    for gradient, piece, shape in zip(gradients, pieces, shapes, strict=True):
        as_before = draft.constant("shape", ir.tensor(np.array(shape, np.int64)))
        (value,) = draft.add("Reshape", (piece, as_before), ((f"{gradient.name}", dtype, ir.Shape(shape)),))
        reduced.append(draft.cast(value, types.of(gradient) or dtype, f"{gradient.name}_as_before"))
    return reduced
