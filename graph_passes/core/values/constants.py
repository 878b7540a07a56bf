"""Computes values that depend on constants only."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.values.evaluation import SIZES, evaluate

#: Ops whose results are random, unless a seed fixes them.
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
#: The most elements that are computed, unless a parameter is itself larger.
_LARGEST = 2**20
_MOST_NODES = 32  # exporters make a weight with few nodes: shapes, casts, a transposition


#: The types in which ops take sizes, places and axes.
_WHOLE = (ir.DataType.INT32, ir.DataType.INT64)


def whole_numbers(value: ir.Value | None) -> tuple[int, ...] | None:
    """The elements of a constant, as an op takes sizes, places or axes; None where it is none, or of another type."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype not in _WHOLE:
        return None
    return tuple(int(each) for each in tensor.numpy().reshape(-1))


class Constants:
    """Finds values of a model that are always the same, and computes those that a few of ONNX's ops make."""

    def __init__(self, model: ir.Model) -> None:
        self._opset = onnx_opset(model.opset_imports)

    def of(self, value: ir.Value | None) -> np.ndarray | None:
        """The value; None if it is not constant.

        An initializer that is also an input is only a default, which a caller may replace.
        """
        if value is None or value.is_graph_input():
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return tensor.numpy()
        leaves: dict[ir.Value, None] = {}
        nodes: dict[ir.Node, None] = {}
        return self._evaluate(value, nodes, leaves) if _gather(value, nodes, leaves) else None

    def whole(self, value: ir.Value | None) -> np.ndarray | None:
        """The value, where its type is one in which ops take sizes, places and axes."""
        array = self.of(value)
        return array if array is not None and array.dtype in (np.int32, np.int64) else None

    def _evaluate(self, value: ir.Value, nodes: dict[ir.Node, None], leaves: dict[ir.Value, None]) -> np.ndarray | None:
        known: dict[ir.Value, np.ndarray] = {}
        for leaf in leaves:
            assert leaf.const_value is not None
            known[leaf] = leaf.const_value.numpy()
        largest = max((array.size for array in known.values()), default=0)
        for node in nodes:
            proto = _proto(node)
            inputs = [None if read is None else known[read] for read in node.inputs[: len(proto.input)]]
            array = evaluate(proto, inputs, self._opset, _LARGEST, also=largest)
            if array is None:
                return None
            known[node.outputs[0]] = array
        return known[value]


def _gather(value: ir.Value, nodes: dict[ir.Node, None], leaves: dict[ir.Value, None], depth: int = 0) -> bool:
    """Collect everything that makes a value, in order. Whether that is only constants and few of ONNX's ops."""
    node = value.producer()
    if node is None:
        leaves[value] = None
        return value.is_initializer() and not value.is_graph_input() and value.const_value is not None
    if node in nodes:
        return True
    if node.domain != "" or max(len(nodes), depth) >= _MOST_NODES or len(node.outputs) != 1:
        return False
    if node.op_type not in (*SIZES, "CastLike") or any(each.is_ref() for each in node.attributes.values()):
        return False
    inputs = node.inputs if _type(node) is None else node.inputs[:1]
    if not all(_gather(read, nodes, leaves, depth + 1) for read in inputs if read is not None):
        return False
    nodes[node] = None
    return True


def _type(node: ir.Node) -> ir.DataType | None:
    """The type to which a CastLike casts, if the model declares it; its second input need not be constant."""
    like = node.inputs[1] if node.op_type == "CastLike" else None
    return None if like is None else like.dtype


def _proto(node: ir.Node) -> onnx.NodeProto:
    dtype, value = _type(node), node.inputs[0] if node.inputs else None
    if dtype is None or value is None:
        return ir.serde.serialize_node(node)
    return onnx.helper.make_node("Cast", [value.name or ""], [node.outputs[0].name or ""], to=dtype.value)
