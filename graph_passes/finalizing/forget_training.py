"""Removes what only training needs from our training and evaluation graphs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.remove_unused_nodes import RemoveUnusedNodesPass
from onnx_cbp.graph_passes.core.splice import succeed
from onnx_cbp.graph_passes.stepping.training_graph import METADATA, RANDOM_MASK, TrainingGraph


class ForgetTrainingPass(InPlacePass):
    """Gradients and the random state are no outputs any more, and random masks let everything through.

    Updated running statistics stay, because for a batch norm in steps only they tell which statistics are its own. The
    rest is the forward graph, with its parameters as inputs. The loss as an output is replaced by the scores that it
    judges; if these are not known, the loss stays.

    Attributes:
        parameters: their names; empty if the graph is not a training graph of ours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parameters: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite in place."""
        described = TrainingGraph.of(model)
        if described is None:
            return PassResult(model, modified=False)
        self.parameters = tuple(described.parameters)
        read = [value for value in model.graph.inputs if value.uses()]
        gone = {*described.gradients.values(), described.updates.get(described.random_state or "")}
        kept = [value for value in model.graph.outputs if value.name not in gone]
        if described.scores:
            values = {value.name: value for node in model.graph for value in node.outputs}
            scores = [values[name] for name in described.scores if name in values]
            kept = list(dict.fromkeys([*scores, *(value for value in kept if value.name != described.loss)]))
        model.graph.outputs.clear()
        model.graph.outputs.extend(kept)
        for node in list(model.graph):
            is_masked = bool(node.metadata_props.get(RANDOM_MASK)) and len(node.outputs) == 1
            X = node.inputs[0] if is_masked and node.inputs else None
            if X is None:
                continue
            Y = node.outputs[0]
            if Y.is_graph_output():
                through = ir.node("Identity", [X], name=f"{node.name}/through")
                through.outputs[0].type, through.outputs[0].shape = Y.type, Y.shape
                model.graph.insert_before(node, through)
                succeed(Y, through.outputs[0])
            else:
                Y.replace_all_uses_with(X)
            model.graph.remove(node, safe=True)
        del model.metadata_props[METADATA]
        RemoveUnusedNodesPass()(model)
        for value in read:  # labels, the random state
            if not value.uses() and not value.is_graph_output():
                model.graph.inputs.remove(value)
        return PassResult(model, modified=True)
