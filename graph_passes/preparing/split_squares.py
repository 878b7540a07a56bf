"""Replaces sums of squares, for which ONNX Runtime's gradient builder has no gradient."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.splice import Names, Splice
from onnx_cbp.graph_passes.core.types import Types

#: Since this opset ReduceSum has its axes as an input; ReduceSumSquare has this only since a later opset.
_AXES_ARE_AN_INPUT_SINCE = 13


class SplitSquaresPass(InPlacePass):
    """ReduceSumSquare(X) becomes ReduceSum(X * X); tf2onnx computes the variance of a batch with the former."""

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        names, types = Names(model), Types(model)
        opset = onnx_opset(model.opset_imports)
        found = [node for node in RecursiveGraphIterator(model.graph) if _is_sum_of_squares(node)]
        for node in found:
            splice = Splice(node, names, types)
            X, Y = node.inputs[0], node.outputs[0]
            assert X is not None
            (squares,) = splice.add("Mul", (X, X), (("squares", X.dtype, X.shape),))
            attributes = {
                name: node.attributes[name].as_int()
                for name in ("keepdims", "noop_with_empty_axes")
                if name in node.attributes
            }
            inputs, more = [squares, *node.inputs[1:2]], {}
            axes = node.attributes.get("axes")
            if axes is not None and opset >= _AXES_ARE_AN_INPUT_SINCE:
                inputs.append(splice.constant("axes", ir.tensor(list(axes.as_ints()), dtype=ir.DataType.INT64)))
            elif axes is not None:
                more["axes"] = list(axes.as_ints())
            (total,) = splice.add("ReduceSum", inputs, (("sum", Y.dtype, Y.shape),), {**attributes, **more})
            splice.hand_over(Y, total)
            splice.commit()
        return PassResult(model, bool(found))


def _is_sum_of_squares(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == ("", "ReduceSumSquare") and bool(node.inputs) and node.inputs[0] is not None
