"""Removes the Identity nodes that only copy."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import may_succeed, succeed


class RemoveIdentitiesPass(InPlacePass):
    """Whoever reads an Identity reads what it was given, in the main graph, in subgraphs and in functions.

    An Identity whose result is an output stays where it is what makes it one: of an input, a constant, a value of the
    graph outside (the branch of an If that hands one on), or of a value that is an output already (the body of a Scan
    that hands its new state on twice). Otherwise what it was given takes the output's name, type and shape.
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
        # The copy may be declared where what is copied is not.
        given.type = given.type if given.type is not None else made.type
        given.shape = given.shape if given.shape is not None else made.shape
        made.replace_all_uses_with(given)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True
