"""Folds arithmetic with one factor and one summand per channel into the linear op before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.splice import Names, inherit, succeed
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.finalizing.fold_batch_norm import (
    _linear,
    _number,
    _scaled,
    _spread,
    _write,
)
from onnx_cbp.graph_passes.rewriting.cancel_transposes import may_succeed, permutation
from onnx_cbp.graph_passes.rewriting.fusions.fold_relu import only_reader

_UNBROADCAST_SINCE = 7
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class FoldAffinePass(InPlacePass):
    """Folds constants that multiply a linear op's result, or are added to it, per channel, into weight and bias.

        Y = (W*X + b) * k + c
    ->
        Y = (k*W)*X + (k*b + c)

    ONNX Runtime's gradient builder leaves this of a frozen batch norm in arithmetic: it computes the root, and then
    nothing says any more that it was a batch norm. The arithmetic may be any number of Add, Sub, Mul and Div, each the
    only reader of the one before, also after a Transpose. Computed in float64 and rounded once. A factor or a summand
    alone stays.

    Attributes:
        into: the linear ops into which the last call folded something.
    """

    def __init__(self) -> None:
        super().__init__()
        self.into: set[ir.Node] = set()

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        self.into = set()
        opset = onnx_opset(model.opset_imports)
        if opset >= _UNBROADCAST_SINCE:
            names, constants = Names(model), Constants(model)
            for node in list(model.graph):
                if node.domain == "" and node.op_type in _LINEAR and _fold(node, names, opset, constants):
                    self.into.add(node)
        return PassResult(model, modified=bool(self.into))


@dataclass(frozen=True)
class _Affine:
    """A node that computes value * factor + summand."""

    node: ir.Node
    before: ir.Value
    factor: np.ndarray
    summand: np.ndarray


def _fold(node: ir.Node, names: Names, opset: int, constants: Constants) -> bool:
    shape = node.outputs[0].shape
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        return False
    linear = _linear(node, shape[1], opset, constants)
    if linear is None:  # then nothing says that there are as many channels as the graph declares
        return False
    chain = list(_chain(node.outputs[0], len(shape), shape[1], constants))
    ops = {affine.node.op_type for affine in chain}
    if not (ops & {"Mul", "Div"} and ops & {"Add", "Sub"}):
        return False
    if any(not may_succeed(affine.node.outputs[0], affine.before) for affine in chain):
        return False
    k, c = np.ones(shape[1]), np.zeros(shape[1])
    with np.errstate(all="ignore"):  # numbers that are not finite are found below
        for affine in chain:
            k, c = k * affine.factor, c * affine.factor + affine.summand
        weight = _scaled(linear.values, _spread(linear, k))
        bias = (k * linear.bias + c).astype(linear.values.dtype)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return False
    _write(node, linear, weight, bias, names)
    for affine in reversed(chain):
        Y = affine.node.outputs[0]
        (succeed if Y.is_graph_output() else inherit)(Y, affine.before)
        assert isinstance(affine.node.graph, ir.Graph)
        affine.node.graph.remove(affine.node, safe=True)
    return True


def _chain(value: ir.Value, rank: int, channels: int, constants: Constants) -> Iterator[_Affine]:
    """The nodes that continue from a linear op's result, as far as each is affine."""
    axis, graph = 1, None
    while (reader := only_reader(value)) is not None and graph in (None, reader.graph):
        graph = reader.graph
        order = permutation(reader)
        if len(order) == rank:
            axis = order.index(axis)
        else:
            affine = _affine(reader, value, rank, axis, channels, constants)
            if affine is None:
                return
            yield affine
        value = reader.outputs[0]


def _affine(
    node: ir.Node, value: ir.Value, rank: int, axis: int, channels: int, constants: Constants
) -> _Affine | None:
    if node.domain != "" or node.op_type not in ("Add", "Sub", "Mul", "Div") or node.inputs[0] is node.inputs[1]:
        return None
    first = node.inputs[0] is value
    array = _number(node.inputs[1 if first else 0], constants)
    if array is None or array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if shape[axis] not in (1, channels) or any(size != 1 for place, size in enumerate(shape) if place != axis):
        return None
    other = np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Add":
        return _Affine(node, value, one, other)
    if node.op_type == "Sub":
        return _Affine(node, value, one, -other) if first else _Affine(node, value, -one, other)
    if node.op_type == "Mul":
        return _Affine(node, value, other, zero)
    with np.errstate(all="ignore"):
        return _Affine(node, value, one / other, zero) if first else None
