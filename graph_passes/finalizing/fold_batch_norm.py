"""Folds batch norms in inference form into the linear op before them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.sites import InferenceSite
from onnx_cbp.graph_passes.core.splice import Names, succeed
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.rewriting.fusions.fold_relu import only_reader

_UNBROADCAST_SINCE = 7
_CONVOLUTIONS = ("Conv", "ConvTranspose")
#: How many elements are in float64 at the same time.
_AT_A_TIME = 2**20


class FoldBatchNormPass(InPlacePass):
    """Folds a batch norm after Conv, ConvTranspose, Gemm or MatMul into the weight and bias of this op.

        Y = scale * (W*X + b - mean) / sqrt(var + epsilon) + B
    ->
        Y = (k*W)*X + (k*(b - mean) + B),    k = scale / sqrt(var + epsilon), one per output channel

    An Add of one number per channel between them counts as a bias. Computed in float64 and rounded once. Two
    conditions: the batch norm must be the only reader of that op's result; and weight, bias and the four vectors must
    be constants. If a folded weight is not finite in its type, the batch norm stays.

    Attributes:
        folded: how many the last call folded.
        into: the linear ops into which they were folded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folded = 0
        self.into: set[ir.Node] = set()

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        names, constants = Names(model), Constants(model)
        opset = onnx_opset(model.opset_imports)
        self.folded, self.into = 0, set()
        for site in find_sites(model):
            if isinstance(site, InferenceSite) and not site.superfluous and site.axis == 1:
                node = _fold(site, names, opset, constants)
                if node is not None:
                    self.folded += 1
                    self.into.add(node)
        return PassResult(model, modified=self.folded > 0)


@dataclass(frozen=True)
class _Linear:
    """weight * X + bias, with the output channels along `shape` of the weight."""

    op_type: str
    weight: ir.Value
    values: np.ndarray
    bias: np.ndarray
    shape: tuple[int, ...]


def _fold(site: InferenceSite, names: Names, opset: int, constants: Constants) -> ir.Node | None:
    """Fold a batch norm; returns the op that took it, or None if there is none."""
    added = _added(site, opset, constants)
    X, reader, more = (site.X, site.node, np.zeros(())) if added is None else (added.X, added.node, added.bias)
    node = X.producer()
    if node is None or node.graph is not site.node.graph or only_reader(X) is not reader:
        return None
    vectors = [_number(value, constants) for value in (site.scale, site.B, site.mean, site.var)]
    if node.domain != "" or any(vector is None for vector in vectors):
        return None
    scale, B, mean, var = (vector.astype(np.float64).reshape(-1) for vector in vectors if vector is not None)
    linear = _linear(node, len(scale), opset, constants)
    if (
        linear is None or len({len(scale), len(B), len(mean), len(var)}) > 1 or more.size not in (1, len(scale))
    ):  # no runtime accepts that
        return None
    with np.errstate(all="ignore"):  # numbers that are not finite are found below
        k = scale / np.sqrt(var + np.float64(np.float32(site.epsilon)))
        weight = _scaled(linear.values, _spread(linear, k))
        bias = (k * (linear.bias + more - mean) + B).astype(linear.values.dtype)
        finite = np.isfinite(weight).all() and np.isfinite(bias).all()
    if not finite:
        return None
    _write(node, linear, weight, bias, names)
    succeed(site.Y, node.outputs[0])
    assert site.node.graph is not None
    site.node.graph.remove((site.node, reader) if added else site.node, safe=True)
    return node


@dataclass(frozen=True)
class _Added:
    """An Add of one number per channel before a batch norm: X + bias."""

    node: ir.Node
    X: ir.Value
    bias: np.ndarray


def _added(site: InferenceSite, opset: int, constants: Constants) -> _Added | None:
    node = site.X.producer()
    if node is None or (node.domain, node.op_type) != ("", "Add") or opset < _UNBROADCAST_SINCE:
        return None
    if node.graph is not site.node.graph or only_reader(site.X) is not site.node:
        return None
    for X, other in (node.inputs, reversed(node.inputs)):
        bias = _number(other, constants)
        rank = None if X is None or X.shape is None else len(X.shape)
        if X is None or bias is None or rank is None or bias.ndim > rank:
            continue
        shape = (1,) * (rank - bias.ndim) + bias.shape
        if all(size == 1 for axis, size in enumerate(shape) if axis != 1):
            return _Added(node, X, bias.astype(np.float64).reshape(-1))
    return None


def _scaled(values: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The product, computed in float64 and rounded once. A few rows at a time, so a large weight is in memory once."""
    k = np.broadcast_to(k, (values.shape[0], *k.shape[1:]))
    product = np.empty_like(values)
    rows = max(1, _AT_A_TIME // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        product[part] = k[part] * values[part].astype(np.float64)
    return product


def _spread(linear: _Linear, k: np.ndarray) -> np.ndarray:
    """k, in a shape that broadcasts along the weight's output channels."""
    if linear.op_type != "ConvTranspose":
        return k.reshape(linear.shape)
    # [C, M/group, ...]: the rows of group g make the channels from g*M/group on.
    groups, rows, channels, *space = linear.shape
    spread = np.broadcast_to(k.reshape(groups, 1, channels), (groups, rows, channels))
    return spread.reshape(groups * rows, channels, *space)


def _number(value: ir.Value | None, constants: Constants) -> np.ndarray | None:
    array = constants.of(value)
    return array if array is not None and array.dtype in (np.float16, np.float32, np.float64) else None


def _linear(node: ir.Node, channels: int, opset: int, constants: Constants) -> _Linear | None:
    """The linear op that a node is, with `channels` output channels; None if nothing can be folded into it."""
    if node.op_type not in (*_CONVOLUTIONS, "Gemm", "MatMul") or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    values, given = _number(weight, constants), optional_input(node, 2)
    bias = np.zeros(()) if given is None else _number(given, constants)
    if weight is None or values is None or bias is None or values.ndim < 2:
        return None
    if node.op_type in _CONVOLUTIONS:
        return _convolution(node, weight, values, bias, channels)
    if opset < _UNBROADCAST_SINCE or values.ndim != 2:
        return None
    if node.op_type == "MatMul":
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        fits = shape is not None and len(shape) == 2 and values.shape[1] == channels
        return _Linear("MatMul", weight, values, bias, (1, channels)) if fits else None
    transposed = bool(attribute(node, "transB", 0))
    bias = np.float64(attribute(node, "beta", 1.0)) * bias.astype(np.float64)
    if bias.ndim == 2 and bias.shape[0] == 1:
        bias = bias[0]
    if values.shape[0 if transposed else 1] != channels or bias.shape not in ((), (1,), (channels,)):
        return None
    return _Linear("Gemm", weight, values, bias, (channels, 1) if transposed else (1, channels))


def _convolution(
    node: ir.Node, weight: ir.Value, values: np.ndarray, bias: np.ndarray, channels: int
) -> _Linear | None:
    group = int(attribute(node, "group", 1))
    if group < 1 or bias.shape not in ((), (channels,)):
        return None
    space = (1,) * (values.ndim - 2)
    if node.op_type == "Conv":
        fits, shape = values.shape[0] == channels, (channels, 1, *space)
    else:
        rows, wide = values.shape[:2]
        fits, shape = rows % group == 0 and wide * group == channels, (group, rows // group, wide, *space)
    return _Linear(node.op_type, weight, values, bias.astype(np.float64), shape) if fits else None


def _write(node: ir.Node, linear: _Linear, weight: np.ndarray, bias: np.ndarray, names: Names) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    base = linear.weight.name or "weight"
    new_weight = _initializer(graph, weight, names.fresh(f"{base}_folded"))
    new_bias = _initializer(graph, bias, names.fresh(f"{base}_folded_bias"))
    if node.op_type == "MatMul":
        node.op_type = "Gemm"  # with default attributes: A * B + C
    node.attributes.pop("beta", None)
    node.resize_inputs(3)
    node.replace_input_with(1, new_weight)
    node.replace_input_with(2, new_bias)


def _initializer(graph: ir.Graph, values: np.ndarray, name: str) -> ir.Value:
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(values.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
