"""The parts of a loss: reductions over the batch, and where their gradients begin."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.core.values.sample_axes import SampleAxes
from onnx_cbp.graph_passes.dialects import Reduction, is_gradient_accumulator, is_loss_gradient, reduction

#: Ops that are allowed between the reductions and the loss: if the values are right, so are their gradients.
_BETWEEN = {"Abs", "Add", "Cast", "Clip", "Concat", "Div", "Exp", "Identity", "Log", "Max", "Min", "Mul", "Neg", "Pow"}
_BETWEEN |= {"Reciprocal", "Relu", "Reshape", "Sigmoid", "Softplus", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh"}
_BETWEEN |= {"Unsqueeze"}
_BETWEEN_DONE = _BETWEEN | {"Gather", "ReduceMean", "ReduceSum"}
_A_PAIR = 2
#: Of these, the first input alone has what enters the loss.
_OF_ONE_VALUE = ("ReduceMean", "ReduceSum", "Reshape", "Squeeze", "Unsqueeze")
_NEEDED = (
    "data_parallel needs a loss that is made of ReduceMean, ReduceSum, SoftmaxCrossEntropyLoss or "
    "NegativeLogLikelihoodLoss of a whole batch"
)


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
    terms = [_with_one_gradient(term, graph) for term in terms_of(loss, model)]
    _refuse_other_losses(graph, terms)
    return terms


def terms_of(loss: ir.Value, model: ir.Model) -> list[Reduction]:
    """The reductions over a batch from which a loss is computed, in the graph's order; their gradients may be unknown.

    Raises:
        OnnxCbpError: it is not computed from reductions; one line that names the node.
    """
    return [_counted(term, model.graph) for term in _terms(loss, model)]


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
    return any(node.domain == DOMAIN and node.op_type == "AllReduceBucket" for node in _behind([loss], _BETWEEN_DONE))


def _behind(values: list[ir.Value], op_types: set[str] | None = None) -> Iterator[ir.Node]:
    """The nodes that compute values. If op types are given, the search continues only through nodes of these."""
    seen: set[ir.Node] = set()
    todo = [value.producer() for value in values]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if op_types is None or (node.domain == "" and node.op_type in op_types):
            todo += [value.producer() for value in node.inputs if value is not None]


def _terms(loss: ir.Value, model: ir.Model) -> list[Reduction]:
    """The reductions from which the loss is computed, in the order of the graph.

    What takes values together that have no samples any more, such as the mean of several losses, is none of them.
    """
    graph, samples = model.graph, SampleAxes(model, Types(model))
    found: dict[ir.Node, Reduction] = {}
    seen: set[ir.Value] = set()
    todo = [(loss, "")]
    while todo:
        value, reader = todo.pop()
        if value in seen or ir.convenience.get_const_tensor(value) is not None:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            raise OnnxCbpError(f"node '{reader}': the loss depends on '{value.name}' as it is; {_NEEDED}")
        term = reduction(node)
        if isinstance(term, str):
            raise OnnxCbpError(f"node '{label(node)}' ({node.op_type}) makes the loss: {term}; {_NEEDED}")
        of_losses = term is not None and _is_reduced(_data(term), samples, node)
        if term is not None and not of_losses:
            found[node] = term
        elif of_losses or (node.domain == "" and node.op_type in _BETWEEN and node.graph is graph):
            operands = node.inputs[:1] if node.op_type in _OF_ONE_VALUE else node.inputs
            todo += [(operand, label(node)) for operand in operands if operand is not None]
        else:
            raise OnnxCbpError(f"node '{label(node)}' ({node.op_type}) makes the loss: {_NEEDED}")
    if not found:
        raise OnnxCbpError(f"the loss '{loss.name}' is a constant: {_NEEDED}")
    return [found[node] for node in graph if node in found]


def refuse_reduced(model: ir.Model, scores: ir.Value) -> None:
    """Refuse scores that have no samples any more, since they were reduced before, or that pair samples.

    Raises:
        OnnxCbpError: they are such; one line.
    """
    if _is_reduced(scores, SampleAxes(model, Types(model)), scores.producer()):
        raise OnnxCbpError(
            f"data_parallel: '{scores.name}' has no samples any more, since they were reduced before: its loss is none "
            "over the samples of all replicas: reduce only in the loss"
        )


def _is_reduced(X: ir.Value, samples: SampleAxes, reader: ir.Node | None) -> bool:
    """Whether a value has no samples any more, since they were reduced before.

    Raises:
        OnnxCbpError: it pairs samples; one line that names the node which does.
    """
    spread = samples.of(X)
    if spread.axes is not None and len(spread.axes) > 1:
        paired = next((node for value in made_of(X) if (node := _pairs(value, samples)) is not None), None)
        if paired is not None:
            where = "" if reader is None else f", and node '{label(reader)}' reduces what comes of it"
            raise OnnxCbpError(
                f"node '{label(paired)}' ({paired.op_type}) pairs the samples of a batch with one another{where}: with "
                "data_parallel each replica would pair its own samples alone"
            )
    return spread.axes == frozenset() and bool(spread.mixed)


def _pairs(value: ir.Value, samples: SampleAxes) -> ir.Node | None:
    """The node that makes a value, if it has the samples of its inputs along different axes."""
    node, axes = value.producer(), samples.of(value).axes
    if node is None or axes is None or len(axes) < _A_PAIR:
        return None
    read = [samples.of(each).axes for each in node.inputs if each is not None]
    along = [each for each in read if each]
    return node if len(along) >= _A_PAIR and all(each < axes for each in along) else None


def _data(term: Reduction) -> ir.Value:
    X = term.node.inputs[0]
    assert X is not None
    return X


def _counted(term: Reduction, graph: ir.Graph) -> Reduction:
    """A sum that depends on no sample, such as a penalty on weights, is the same on all replicas: take the mean."""
    if term.mean or _read(term.node) & _samples(graph):
        return term
    return replace(term, mean=True, elements=None, labels=None)


def _read(node: ir.Node) -> set[ir.Value]:
    """The graph's inputs on which a node's results depend, and constants."""
    made = [node, *_behind([value for value in node.inputs if value is not None])]
    return {value for each in made for value in each.inputs if value is not None and value.producer() is None}


def _samples(graph: ir.Graph) -> set[ir.Value]:
    """The graph's inputs that differ between replicas: they are neither parameters nor shared by a whole batch.

    A frozen parameter is recognised by its shape. If all sizes are fixed, it stands behind the data, and those have the
    first size of the first of them.
    """
    trained = _trained(graph)
    inputs = [value for value in graph.inputs if value not in trained]
    of_any_size = {value for value in inputs if value.shape is None or not value.shape.is_static()}
    if of_any_size:
        return of_any_size
    data = list(itertools.takewhile(lambda value: value not in trained, graph.inputs))
    batch = next((value.shape[0] for value in data if value.shape), None)
    return {value for value in data if not value.shape or value.shape[0] == batch}


def _trained(graph: ir.Graph) -> set[ir.Value]:
    """The parameters with a gradient. The training API too knows their buffers only by these names."""
    names = {value.name for value in graph.inputs}
    return {value for value in graph.inputs if f"{value.name}_grad.accumulation.buffer" in names}


def _with_one_gradient(term: Reduction, graph: ir.Graph) -> Reduction:
    """Check that the gradient to be scaled is known."""
    if not term.mean or len(term.gradients) == 1:
        return term
    if not _read(term.node) & _trained(graph):
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
