"""The value of what is made of constants alone."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

#: Ops whose results nothing fixes, unless a seed does.
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
_MOST_NODES = 32  # exporters make a weight of a few: shapes, casts, a transposition


class Constants:
    """Values of a model that are the same whatever is fed, computed where a few of ONNX's ops make them."""

    def __init__(self, model: ir.Model) -> None:
        self._opset = model.opset_imports.get("", 1)

    def of(self, value: ir.Value | None) -> np.ndarray | None:
        """The value; None where it is no constant.

        An initializer that is an input, too, is a default that a caller may overrule.
        """
        if value is None or value.is_graph_input():
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return tensor.numpy()
        leaves: dict[ir.Value, None] = {}
        nodes: dict[ir.Node, None] = {}
        return self._evaluate(value, nodes, leaves) if _gather(value, nodes, leaves) else None

    def _evaluate(self, value: ir.Value, nodes: dict[ir.Node, None], leaves: dict[ir.Value, None]) -> np.ndarray | None:
        tensors = []
        for leaf in leaves:
            assert leaf.const_value is not None
            tensors.append(numpy_helper.from_array(leaf.const_value.numpy(), leaf.name))
        output = onnx.ValueInfoProto(name=value.name or "")
        graph = onnx.helper.make_graph([_proto(node) for node in nodes], "constant", [], [output], tensors)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)])
        with contextlib.suppress(Exception):  # what the reference cannot do is no constant
            (result,) = ReferenceEvaluator(model).run([output.name], {})  # type: ignore[misc]
            return np.asarray(result)
        return None


def _gather(value: ir.Value, nodes: dict[ir.Node, None], leaves: dict[ir.Value, None], depth: int = 0) -> bool:
    """Collect what makes a value, in order; whether it is constants and few of ONNX's ops."""
    node = value.producer()
    if node is None:
        leaves[value] = None
        return value.is_initializer() and not value.is_graph_input() and value.const_value is not None
    if node in nodes:
        return True
    if node.domain != "" or node.op_type in RANDOM or max(len(nodes), depth) >= _MOST_NODES:
        return False
    if any(each.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for each in node.attributes.values()):
        return False
    inputs = node.inputs if _type(node) is None else node.inputs[:1]
    if not all(_gather(read, nodes, leaves, depth + 1) for read in inputs if read is not None):
        return False
    nodes[node] = None
    return True


def _type(node: ir.Node) -> ir.DataType | None:
    """The type that a CastLike casts to, where the model says it: what it casts like need not be a constant."""
    like = node.inputs[1] if node.op_type == "CastLike" else None
    return None if like is None else like.dtype


def _proto(node: ir.Node) -> onnx.NodeProto:
    dtype, value = _type(node), node.inputs[0] if node.inputs else None
    if dtype is None or value is None:
        return ir.to_proto(node)
    return onnx.helper.make_node("Cast", [value.name or ""], [node.outputs[0].name or ""], to=dtype.value)
