"""Replaces an If by its branch if the condition is known."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.detach import detach
from onnx_cbp.graph_passes.core.splice import Names, succeed
from onnx_cbp.graph_passes.core.values.constants import Constants


class InlineBranchesPass(InPlacePass):
    """An If of the main graph with a constant condition is replaced by the nodes of its branch.

    PyTorch's older exporter writes an If where a rank or a size decides, but this is fixed when the model is read. An
    If that depends on data stays.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        modified = False
        while self._inline_one(model):
            modified = True
        return PassResult(model, modified)

    @staticmethod
    def _inline_one(model: ir.Model) -> bool:
        constants = Constants(model)
        for node in model.graph:
            if (node.domain, node.op_type) != ("", "If") or any(each.is_ref() for each in node.attributes.values()):
                continue
            condition = constants.of(node.inputs[0])
            if condition is not None and condition.size == 1:
                taken = node.attributes["then_branch" if condition.reshape(()) else "else_branch"].as_graph()
                if len(taken.outputs) != len(node.outputs):
                    continue  # not valid: ONNX's checker or ONNX Runtime reports it
                _inline(node, taken, model)
                return True
        return False


def _inline(node: ir.Node, branch: ir.Graph, model: ir.Model) -> None:
    """Move a branch's nodes before the If, under names that the model does not have yet, and remove the If."""
    graph = model.graph
    names = Names(model)
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        branch.initializers.pop(value.name or "")
        value.name = names.fresh(f"{node.name or 'If'}/{value.name}")
        graph.register_initializer(value)
    nodes = list(branch)
    branch.remove(nodes)
    for each in nodes:
        each.name = names.fresh(f"{node.name or 'If'}/{each.name or each.op_type}")
        for value in each.outputs:
            value.name = names.fresh(f"{node.name or 'If'}/{value.name}") if value.name else value.name
    graph.insert_before(node, nodes)
    for old, new in zip(list(node.outputs), results, strict=True):
        if new in _made_by(nodes) and results.count(new) == 1:
            succeed(old, new)
            continue
        copy = ir.node("Identity", [new], outputs=[ir.Value(name=names.fresh("copy"))], name=names.fresh("Identity"))
        graph.insert_before(node, copy)
        succeed(old, copy.outputs[0])
    graph.remove(node, safe=True)
    detach([node])  # the other branch read values of this graph


def _made_by(nodes: list[ir.Node]) -> set[ir.Value]:
    return {value for node in nodes for value in node.outputs}
