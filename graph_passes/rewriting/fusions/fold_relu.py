"""Folds a Relu into the batch norm before it, and its gradient into that of the batch norm."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import Names, Splice
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import relu_gradient


class FoldReluPass(InPlacePass):
    """Saves a pass over memory and a node in each direction, if nothing else reads the value in between.

        Y = Relu(BatchNormTrainUpdate(..., relu=0))  ->  Y = BatchNormTrainUpdate(..., relu=1)
        BatchNormGrad(ReluGrad(dY, Y), X, ...)       ->  BatchNormReluGrad(dY, Y, X, ...)

    Run it after the one-pass replacements; results are bit for bit the same. Without `forward` the Relu is left: ops
    that become function bodies gain nothing by it.
    """

    def __init__(self, *, forward: bool = True) -> None:
        super().__init__()
        self._forward = forward

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        names, types = Names(model), Types(model)
        modified = False
        for node in list(all_nodes(model)):
            if node.op_type == "BatchNormTrainUpdate" and node.domain == DOMAIN:
                modified |= self._forward and _fold_forward(node)
            elif node.op_type == "BatchNormGrad" and node.domain == DOMAIN:
                modified |= _fold_backward(node, names, types)
        return PassResult(model, modified)


def only_reader(value: ir.Value) -> ir.Node | None:
    """The only node that reads a value; None if there are several, or if the value is an output of the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _fold_forward(node: ir.Node) -> bool:
    if node.attributes["relu"].as_int():
        return False
    relu = only_reader(node.outputs[0])
    if relu is None or (relu.domain, relu.op_type) != ("", "Relu") or relu.graph is not node.graph:
        return False
    before, after = node.outputs[0], relu.outputs[0]
    node.attributes["relu"] = ir.AttrInt64("relu", 1)
    after.replace_all_uses_with(before, replace_graph_outputs=True)
    before.type, before.shape = after.type or before.type, after.shape or before.shape
    before.metadata_props.update(after.metadata_props)
    before.meta.update(after.meta)
    for key, value in relu.metadata_props.items():
        node.metadata_props.setdefault(key, value)  # its module is that of the batch norm
    name, after.name = after.name, None
    assert relu.graph is not None
    relu.graph.remove(relu, safe=True)
    before.name = name
    return True


def _fold_backward(node: ir.Node, names: Names, types: Types) -> bool:
    dN = node.inputs[0]
    producer = None if dN is None else dN.producer()
    gradient = None if producer is None else relu_gradient(producer)
    if dN is None or producer is None or gradient is None or only_reader(dN) is not node:
        return False
    if producer.graph is not node.graph:
        return False
    Splice(node, names, types).become(
        "BatchNormReluGrad", (*gradient, *node.inputs[1:]), axis=node.attributes["axis"].as_int()
    )
    assert producer.graph is not None
    producer.graph.remove(producer, safe=True)
    return True
