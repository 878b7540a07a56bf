"""The reductions in the loss of a training graph, and where their gradients begin."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.dialects import Reduction, is_gradient_accumulator, is_loss_gradient
from onnx_cbp.graph_passes.distributing.loss_parts import inputs_behind, loss_parts, trained_inputs


def loss_terms(model: ir.Model) -> list[Reduction]:
    """The reductions from which the loss of a training graph is computed, in the graph's order; [] if already handled.

    For means, the gradient is known, if there is one.

    Raises:
        OnnxCbpError: the loss is not found, or is not computed from reductions; one line that names the node.
    """
    graph = model.graph
    loss = _loss(graph)
    if _is_done(loss):
        return []
    terms = [_with_one_gradient(term, graph) for term in loss_parts(loss, model).reductions]
    _refuse_other_losses(graph, terms)
    return terms


def _loss(graph: ir.Graph) -> ir.Value:
    """The loss: the first output of a training graph."""
    if not any(is_gradient_accumulator(node) for node in graph):
        raise OnnxCbpError(
            "data_parallel needs ONNX Runtime training artifacts, and this model has no gradient accumulators "
            "(InPlaceAccumulatorV2 with the reset flag of the training API)"
        )
    loss = next(iter(graph.outputs), None)
    if loss is None or loss.producer() is None:
        raise OnnxCbpError("data_parallel: the model's first output is to be the loss, and no node makes it")
    return loss


def _is_done(loss: ir.Value) -> bool:
    """Whether the loss already comes from a bucket."""
    made = (node for value in made_of(loss) if (node := value.producer()) is not None)
    return any(node.domain == DOMAIN and node.op_type == "AllReduceBucket" for node in made)


def _with_one_gradient(term: Reduction, graph: ir.Graph) -> Reduction:
    """Check that the gradient to be scaled is known."""
    if not term.mean or len(term.gradients) == 1:
        return term
    if not inputs_behind(term.node) & trained_inputs(graph):
        return replace(term, gradients=())
    how = "no node" if not term.gradients else f"{len(term.gradients)} nodes"
    raise OnnxCbpError(
        f"node '{label(term.node)}' ({term.node.op_type}) makes the loss, and {how} can be told to be its "
        "gradient: data_parallel needs the graph as ONNX Runtime's gradient builder leaves it"
    )


def _refuse_other_losses(graph: ir.Graph, terms: list[Reduction]) -> None:
    known = {node for term in terms for node, _ in term.gradients}
    for node in graph:
        if is_loss_gradient(node) and node not in known:
            raise OnnxCbpError(
                f"node '{label(node)}' ({node.op_type}) is the gradient of a loss that the first output "
                f"'{graph.outputs[0].name}' is not made of: data_parallel scales that of the first output only"
            )
    if not all(term.mean for term in terms):
        return  # gradients of sums can begin anywhere
    scaled = _after(known)
    for node in graph:
        if is_gradient_accumulator(node) and node not in scaled:
            raise OnnxCbpError(
                f"node '{label(node)}' accumulates a gradient that does not come from the loss, the first output "
                f"'{graph.outputs[0].name}': data_parallel cannot scale it"
            )


def _after(nodes: set[ir.Node]) -> set[ir.Node]:
    """The nodes, and all that depend on them."""
    found: set[ir.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += [use.node for value in node.outputs for use in value.uses()]
    return found
