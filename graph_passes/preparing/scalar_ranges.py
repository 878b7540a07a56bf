"""Gives Range nodes scalar inputs, as ONNX requires."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import Names
from onnx_cbp.graph_passes.core.types import Types


class ScalarRangesPass(InPlacePass):
    """A start, a limit or a step of shape [1] gets shape [].

    ONNX Runtime can compute both, but refuses [1] if it knows the shape, and after simplifying it does. The body of
    ONNX's own AffineGrid (opset 20) has such limits.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        types, names = Types(model), Names(model)
        modified = False
        for node in list(all_nodes(model)):
            if (node.domain, node.op_type) != ("", "Range"):
                continue
            for index, value in enumerate(node.inputs):
                if value is None or len(types.shape(value) or ()) != 1:
                    continue
                shape = ir.node("Constant", [], {"value": ir.tensor(np.array([], np.int64))}, name=names.fresh("shape"))
                single = ir.node("Reshape", [value, shape.outputs[0]], name=names.fresh("single"))
                for each in (shape, single):
                    each.outputs[0].name = names.fresh(each.name or "")
                assert node.graph is not None
                node.graph.insert_before(node, [shape, single])
                node.replace_input_with(index, single.outputs[0])
                modified = True
        return PassResult(model, modified)
