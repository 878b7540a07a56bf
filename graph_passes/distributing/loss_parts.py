"""The parts of a loss: reductions over the batch, and what all replicas have alike."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_from, made_of, read_inside, subgraphs
from onnx_cbp.graph_passes.core.values.constants import RANDOM
from onnx_cbp.graph_passes.core.values.sample_axes import SampleAxes
from onnx_cbp.graph_passes.dialects import Reduction, reduction
from onnx_cbp.graph_passes.dialects._reading import attribute

#: Ops that are allowed between the reductions and the loss: if the values are right, so are their gradients.
BETWEEN = {"Abs", "Add", "Cast", "Clip", "Concat", "Div", "Exp", "Identity", "Log", "Max", "Min", "Mul", "Neg", "Pow"}
BETWEEN |= {"Reciprocal", "Relu", "Reshape", "Sigmoid", "Softplus", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh"}
BETWEEN |= {"Unsqueeze"}
_A_PAIR = 2
#: Of these, the first input alone has what enters the loss.
_OF_ONE_VALUE = ("ReduceMean", "ReduceSum", "Reshape", "Squeeze", "Unsqueeze")
_NEEDED = (
    "data_parallel needs a loss that is made of ReduceMean, ReduceSum, SoftmaxCrossEntropyLoss or "
    "NegativeLogLikelihoodLoss of a whole batch"
)


#: Inputs of nodes, as (node, index).
Readers = list[tuple[ir.Node, int]]


@dataclass(frozen=True)
class LossParts:
    """From what a loss is computed.

    Attributes:
        reductions: over a batch, in the graph's order; their gradients may be unknown.
        alike: values that are the same on all replicas, and where the loss reads them, as (node, index).
        sizes: results of Shape and Size that count samples, and where the loss reads them; and which of their elements
            do, as 1 and 0.
    """

    reductions: list[Reduction]
    alike: dict[ir.Value, Readers] = field(default_factory=dict)
    sizes: dict[ir.Value, tuple[Readers, tuple[int, ...]]] = field(default_factory=dict)


def loss_parts(
    loss: ir.Value, model: ir.Model, alike: Collection[ir.Value] = (), *, vectors: bool = False
) -> LossParts:
    """Follow a loss back to what it is computed from.

    Args:
        loss: a value of the main graph.
        model: its model.
        alike: values that are the same on all replicas: what they are made of does not matter.
        vectors: whether reductions may leave several elements, such as the mean of each class, and the number of
            samples may be read.

    Raises:
        OnnxCbpError: it is not computed from reductions; one line that names the node.
    """
    parts = _parts(loss, model, alike, vectors)
    return replace(parts, reductions=[_counted(term, model.graph) for term in parts.reductions])


def _parts(loss: ir.Value, model: ir.Model, alike: Collection[ir.Value], vectors: bool) -> LossParts:
    """The parts of a loss, with sums as they are.

    What takes values together that have no samples any more, such as the mean of several losses, is none of them.
    """
    graph, types = model.graph, Types(model)
    samples = SampleAxes(model, types)
    found: dict[ir.Node, Reduction] = {}
    read: dict[ir.Value, Readers] = {}
    sizes: dict[ir.Value, tuple[Readers, tuple[int, ...]]] = {}
    seen: set[ir.Value] = set()
    todo: list[tuple[ir.Value, ir.Node | None, int]] = [(loss, None, 0)]
    while todo:
        value, reader, index = todo.pop()
        if value in alike:
            if reader is not None and (reader, index) not in read.setdefault(value, []):
                read[value].append((reader, index))
            continue
        counting = _counting(value, samples, types) if vectors else None
        if counting is not None and reader is not None:
            sizes.setdefault(value, ([], counting))[0].append((reader, index))
            continue
        if value in seen or ir.convenience.get_const_tensor(value) is not None:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            at = "" if reader is None else f"node '{label(reader)}': "
            raise OnnxCbpError(f"{at}the loss depends on '{value.name}' as it is; {_NEEDED}")
        term = None if _is_of_losses(node, samples) else _over_batch(node, samples, types, vectors)
        if term is not None:
            found[node] = term
        elif _may_be_between(node, graph, samples):
            operands = node.inputs[:1] if node.op_type in _OF_ONE_VALUE else node.inputs
            todo += [(operand, node, at) for at, operand in enumerate(operands) if operand is not None]
        else:
            raise OnnxCbpError(f"node '{label(node)}' ({node.op_type}) makes the loss: {_NEEDED}")
    if not found:
        raise OnnxCbpError(f"the loss '{loss.name}' depends on no sample of a batch: {_NEEDED}")
    reductions = [found[node] for node in graph if node in found]
    _refuse_shared_sizes([reader for readers, _ in sizes.values() for reader, _ in readers], seen, reductions, graph)
    return LossParts(reductions, read, sizes)


def _refuse_shared_sizes(
    readers: list[ir.Node], of_loss: set[ir.Value], reductions: list[Reduction], graph: ir.Graph
) -> None:
    """Refuse numbers of samples that the loss and others read: there they must stay those of one replica.

    Raises:
        OnnxCbpError: there is one; one line that names the node which makes it.
    """
    computed = made_from(graph, [term.node.outputs[0] for term in reductions])
    todo, seen = list(readers), set(readers)
    while todo:
        node = todo.pop()
        for value in node.outputs:
            uses = [] if value in computed else [use.node for use in value.uses()]
            for reader in uses:
                if not any(output in of_loss for output in reader.outputs):
                    raise OnnxCbpError(
                        f"node '{label(node)}' ({node.op_type}) makes a number of samples that the loss and node "
                        f"'{label(reader)}' ({reader.op_type}) read: with data_parallel the loss needs that of all "
                        "replicas, and the other its own: let each compute it by nodes of its own"
                    )
                if reader not in seen:
                    seen.add(reader)
                    todo.append(reader)


def _counting(value: ir.Value, samples: SampleAxes, types: Types) -> tuple[int, ...] | None:
    """Which elements of a Shape or a Size count samples, as 1 and 0; None if it is none, or others may differ too."""
    node = value.producer()
    X = None if node is None or node.domain != "" or node.op_type not in ("Shape", "Size") else node.inputs[0]
    axes = None if X is None else samples.of(X).axes
    if node is None or X is None or axes is None or len(axes) != 1:
        return None
    if samples.of(X).mixed:
        return None  # perhaps some of them: their numbers do not add up to that of one process
    if node.op_type == "Size":
        return (1,)
    shape = types.shape(X) or ()
    kept = range(len(shape))[attribute(node, "start", 0) : attribute(node, "end", len(shape))]
    if any(axis not in axes and not isinstance(shape[axis], int) for axis in kept):
        return None
    return tuple(int(axis in axes) for axis in kept)


def _over_batch(node: ir.Node, samples: SampleAxes, types: Types, vectors: bool) -> Reduction | None:
    """The reduction over a batch that a node is; None if it is none.

    Raises:
        OnnxCbpError: it is one that is not supported, or of pairs of samples; one line that names the node.
    """
    term = reduction(node)
    if vectors and isinstance(term, str) and _leaves_no_samples(node, samples, types):
        return Reduction(node, node.op_type == "ReduceMean", elements=node.inputs[0])
    if isinstance(term, str):
        raise OnnxCbpError(f"node '{label(node)}' ({node.op_type}) makes the loss: {term}; {_NEEDED}")
    if term is not None:
        _refuse_pairs(_data(node), samples, node)
    return term


def _leaves_no_samples(node: ir.Node, samples: SampleAxes, types: Types) -> bool:
    """Whether a node adds all samples up, so that sums of a known shape are left: the same shape on all replicas."""
    shape, left = types.shape(node.outputs[0]), samples.of(node.outputs[0])
    known = shape is not None and all(isinstance(size, int) for size in shape)
    return known and node.op_type in ("ReduceMean", "ReduceSum") and left.axes == frozenset() and node in left.mixed


def _is_of_losses(node: ir.Node, samples: SampleAxes) -> bool:
    """Whether a node takes values together that have no samples any more."""
    return reduction(node) is not None and _is_reduced(_data(node), samples)


def _may_be_between(node: ir.Node, graph: ir.Graph, samples: SampleAxes) -> bool:
    """Whether a node's result is right if its operands are those of the whole batch."""
    if node.domain != "" or node.graph is not graph:
        return False
    if node.op_type in BETWEEN or _is_of_losses(node, samples):
        return True
    has_graphs = any(subgraphs(attribute) for attribute in node.attributes.values())
    if has_graphs or node.op_type in (*RANDOM, "Dropout"):
        return False
    return all(value is None or samples.of(value).axes == frozenset() for value in node.inputs)


def refuse_reduced(model: ir.Model, scores: ir.Value) -> None:
    """Refuse scores that have no samples any more, since they were reduced before, or that pair samples.

    Raises:
        OnnxCbpError: they are such; one line.
    """
    samples = SampleAxes(model, Types(model))
    _refuse_pairs(scores, samples, scores.producer())
    if _is_reduced(scores, samples):
        raise OnnxCbpError(
            f"data_parallel: '{scores.name}' has no samples any more, since they were reduced before: its loss is none "
            "over the samples of all replicas: reduce only in the loss"
        )


def _is_reduced(X: ir.Value, samples: SampleAxes) -> bool:
    """Whether a value has no samples any more, since they were reduced before."""
    spread = samples.of(X)
    return spread.axes == frozenset() and bool(spread.mixed)


def _refuse_pairs(X: ir.Value, samples: SampleAxes, reader: ir.Node | None) -> None:
    """Refuse a value that pairs samples.

    Raises:
        OnnxCbpError: it does; one line that names the node which pairs them.
    """
    axes = samples.of(X).axes
    if axes is None or len(axes) < _A_PAIR:
        return
    paired = next((node for value in made_of(X) if (node := _pairs(value, samples)) is not None), None)
    if paired is not None:
        where = "" if reader is None else f", and node '{label(reader)}' reduces what comes of it"
        raise OnnxCbpError(
            f"node '{label(paired)}' ({paired.op_type}) pairs the samples of a batch with one another{where}: with "
            "data_parallel each replica would pair its own samples alone"
        )


def _pairs(value: ir.Value, samples: SampleAxes) -> ir.Node | None:
    """The node that makes a value, if it has the samples of its inputs along different axes."""
    node, axes = value.producer(), samples.of(value).axes
    if node is None or axes is None or len(axes) < _A_PAIR:
        return None
    read = [samples.of(each).axes for each in node.inputs if each is not None]
    along = [each for each in read if each]
    return node if len(along) >= _A_PAIR and all(each < axes for each in along) else None


def _data(node: ir.Node) -> ir.Value:
    X = node.inputs[0]
    assert X is not None
    return X


def _counted(term: Reduction, graph: ir.Graph) -> Reduction:
    """A sum that depends on no sample, such as a penalty on weights, is the same on all replicas: take the mean."""
    if term.mean or inputs_behind(term.node) & _samples(graph):
        return term
    return replace(term, mean=True, elements=None, labels=None)


def inputs_behind(node: ir.Node) -> set[ir.Value]:
    """The graph's inputs on which a node's results depend, and constants."""
    read = [value for value in (*node.inputs, *read_inside(node)) if value is not None]
    return {value for value in made_of(*read) if value.producer() is None}


def _samples(graph: ir.Graph) -> set[ir.Value]:
    """The graph's inputs that differ between replicas: they are neither parameters nor shared by a whole batch.

    A frozen parameter is recognised by its shape. If all sizes are fixed, it stands behind the data, and those have the
    first size of the first of them.
    """
    trained = trained_inputs(graph)
    inputs = [value for value in graph.inputs if value not in trained]
    of_any_size = {value for value in inputs if value.shape is None or not value.shape.is_static()}
    if of_any_size:
        return of_any_size
    data = list(itertools.takewhile(lambda value: value not in trained, graph.inputs))
    batch = next((value.shape[0] for value in data if value.shape), None)
    return {value for value in data if not value.shape or value.shape[0] == batch}


def trained_inputs(graph: ir.Graph) -> set[ir.Value]:
    """The parameters with a gradient. The training API too knows their buffers only by these names."""
    names = {value.name for value in graph.inputs}
    return {value for value in graph.inputs if f"{value.name}_grad.accumulation.buffer" in names}
