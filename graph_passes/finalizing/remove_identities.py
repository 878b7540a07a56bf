"""Removes Identity nodes that only copy."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import may_succeed, succeed


class RemoveIdentitiesPass(InPlacePass):
    """Readers of an Identity read its input instead, in the main graph, in subgraphs and in functions.

    If the result of an Identity is an output, it stays where only the Identity makes an output possible: for an input,
    a constant, a value of an outer graph (returned by a branch of an If), or a value that is already an output (a
    Scan's body that returns its new state twice). Otherwise its input takes over the output's name, type and shape.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Remove in place."""
        removed = [_remove(node) for node in list(all_nodes(model))]
        return PassResult(model, any(removed))


def _remove(node: ir.Node) -> bool:
    if (node.domain, node.op_type) != ("", "Identity") or len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    (given,), (made,) = node.inputs, node.outputs
    if given is None or not may_succeed(made, given):
        return False
    if made.is_graph_output():
        succeed(made, given)
    else:
        # The result may have a declared type where the input has none.
        given.type = given.type if given.type is not None else made.type
        given.shape = given.shape if given.shape is not None else made.shape
        made.replace_all_uses_with(given)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True
