"""Computes values that depend on no data and no parameter."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.types import FLOATS, Types
from onnx_cbp.graph_passes.core.values.evaluation import evaluate

#: Ops with which exporters compute shapes and per-channel vectors.
_VALUES = ("Add", "Cast", "CastLike", "Constant", "ConstantOfShape", "Div", "Mul", "Neg", "Reciprocal", "Sqrt", "Sub")
_SHAPES = ("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Size", "Slice", "Squeeze")
_OPS = frozenset((*_VALUES, *_SHAPES, "Transpose", "Unsqueeze"))
#: Enough for vectors and small filters. Whole weights that are computed stay so.
_LARGEST = 2**16


class FoldConstantsPass(InPlacePass):
    """Turns constant values of the main graph into initializers.

    Constant are: constants, fixed shapes, and everything that is computed only from these. An initializer is not, since
    it is a parameter, which training may change. Exporters write the missing scale of a batch norm, or the missing bias
    of a convolution, as a small graph (Shape, CastLike, Expand), and share one constant among many layers. ONNX
    Runtime's gradient builder handles neither: it has no gradient for CastLike, and makes the gradient of a shared
    Constant twice. Nodes that only a folded node read are removed.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Fold in place."""
        opset = onnx_opset(model.opset_imports)
        types = Types(model)
        known: dict[ir.Value, np.ndarray] = {}
        before: list[ir.Node] = []
        modified = False
        for node in list(model.graph):
            if node.domain != "" or node.op_type not in _OPS or len(node.outputs) != 1:
                continue
            array = _compute(node, known, opset, types)
            if array is None:
                continue
            (output,) = node.outputs
            known[output] = array
            is_float = ir.DataType.from_numpy(array.dtype) in FLOATS
            # A Constant of integers is as good as an initializer, and a pass may need the node.
            wanted = is_float or node.op_type != "Constant"
            if wanted and output.uses() and not output.is_graph_output():
                known[_lift(node, array)] = array
                modified = True
            else:
                before.append(node)
        for node in reversed(before) if modified else ():
            if not (node.outputs[0].uses() or node.outputs[0].is_graph_output()):
                model.graph.remove(node, safe=True)
        return PassResult(model, modified)


def _compute(node: ir.Node, known: dict[ir.Value, np.ndarray], opset: int, types: Types) -> np.ndarray | None:
    """The result of a node; None if it is not known."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type in ("Shape", "Size"):
        if first is None or first.shape is None:
            return None
        start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
        dims = first.shape.dims[start:end]
        sizes = [size for size in dims if isinstance(size, int)]
        if len(sizes) < len(dims):
            return None
        return np.array(sizes if node.op_type == "Shape" else np.prod(sizes, dtype=np.int64), np.int64)
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    if node.op_type == "Constant":  # nothing here computes with text
        tensor = ir.convenience.get_const_tensor(node.outputs[0])
        usable = tensor is not None and tensor.size <= _LARGEST and tensor.dtype != ir.DataType.STRING
        return tensor.numpy() if tensor is not None and usable else None
    proto, inputs = ir.serde.serialize_node(node), list(node.inputs)
    if node.op_type == "CastLike":  # only the type of the second input counts
        dtype = None if inputs[1] is None else types.of(inputs[1])
        if dtype is None:
            return None
        proto, inputs = onnx.helper.make_node("Cast", ["input"], ["output"], to=dtype.value), inputs[:1]
    if any(value is not None and value not in known for value in inputs):
        return None
    return evaluate(proto, [None if value is None else known[value] for value in inputs], opset, _LARGEST)


def _lift(node: ir.Node, array: np.ndarray) -> ir.Value:
    """Replace a node by an initializer."""
    (output,) = node.outputs
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    tensor = ir.tensor(array, name=output.name)
    lifted = ir.Value(
        name=output.name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
        metadata_props=output.metadata_props.copy(),
    )
    output.replace_all_uses_with(lifted)
    output.name = None
    graph.register_initializer(lifted)
    graph.remove(node, safe=True)
    return lifted
