"""Removes everything that the outputs of a graph do not need."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.remove_unused_nodes import RemoveUnusedNodesPass
from onnx_cbp.graph_passes.finalizing.drop_unread_results import DropUnreadResultsPass
from onnx_cbp.graph_passes.finalizing.remove_identities import RemoveIdentitiesPass


class SetOutputsPass(InPlacePass):
    """Makes the given values the graph's outputs."""

    def __init__(self, outputs: Sequence[ir.Value]) -> None:
        super().__init__()
        self._outputs = list(outputs)

    def call(self, model: ir.Model) -> PassResult:
        """Change the model in place."""
        modified = list(model.graph.outputs) != self._outputs
        model.graph.outputs.clear()
        model.graph.outputs.extend(self._outputs)
        return PassResult(model, modified)


class RemoveUnusedPass(InPlacePass):
    """Removes the nodes, weights and inputs that no output needs.

    `read` has the inputs on which some output depended when the model arrived. Of these, inputs that nothing reads any
    more are removed. Inputs that no output ever needed stay, since the cut did not make them useless.
    """

    def __init__(self, read: Sequence[ir.Value]) -> None:
        super().__init__()
        self._read = set(read)

    def call(self, model: ir.Model) -> PassResult:
        """Change the model in place."""
        modified = RemoveIdentitiesPass()(model).modified
        modified |= RemoveUnusedNodesPass()(model).modified
        while DropUnreadResultsPass()(model).modified:
            modified = True
            RemoveUnusedNodesPass()(model)
        kept = [
            value for value in model.graph.inputs if value not in self._read or value.uses() or value.is_graph_output()
        ]
        if len(kept) != len(model.graph.inputs):
            model.graph.inputs.clear()
            model.graph.inputs.extend(kept)
            modified = True
        return PassResult(model, modified)
