"""Finds those values of a training graph that are its outputs at inference."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, InferenceSite, in_graph
from onnx_cbp.graph_passes.core.values.regions import Regions
from onnx_cbp.graph_passes.dialects import counted, is_gradient_accumulator, is_rewritten_forward

#: The inputs where ops have their weights. These are parameters, whether they are inputs of the graph or constants.
_WEIGHTS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "PRelu": (1,)}
#: Losses whose result has the rank of their input if nothing is reduced, so only the op tells that they are losses.
_LOSSES = ("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLossInternal", "NegativeLogLikelihoodLoss")
#: Functions that a loss "with logits" applies to the scores itself.
_LINKS = ("Sigmoid", "Softmax", "LogSoftmax")


def parameters(model: ir.Model, named: Container[str | None] = ()) -> set[ir.Value]:
    """The parameters among the inputs and constants of the graph.

    These are the values that are `named`; values with a gradient buffer (the training API too knows it only by its
    name); and values where ops have their weights. In a graph without a loss only batch norms count for the latter,
    since other ops may have data there.
    """
    graph = model.graph
    values = {*graph.inputs, *graph.initializers.values()}
    names = {value.name for value in graph.inputs}
    found = {v for v in values if v.name in named or f"{v.name}_grad.accumulation.buffer" in names}
    # The gradient of a Gemm is a Gemm too, and has data in the place of a weight.
    forward = _Flow(graph).ancestors(*graph.outputs[:1]) if _trains(graph) else None
    for node in RecursiveGraphIterator(graph) if forward is not None or _loss(graph) is not None else ():
        if node.domain == "" and (forward is None or node in forward):
            places = _WEIGHTS.get(node.op_type, ())
            found |= values & {node.inputs[i] for i in places if i < len(node.inputs)}
    for site in find_sites(model):
        vectors: tuple[ir.Value | None, ...] = ()
        if isinstance(site, ForwardSite):
            vectors = (site.scale, site.B, site.running_mean, site.running_var)
        elif isinstance(site, InferenceSite):
            vectors = (site.scale, site.B, site.mean, site.var)
        elif is_rewritten_forward(site.node):
            vectors = tuple(site.node.inputs[1:5])
        found |= values & {in_graph(v) for v in vectors if v is not None}
    return found


def inference_outputs(model: ir.Model, known: set[ir.Value]) -> list[ir.Value]:
    """The values that feed the loss, once each, and all other outputs except losses, gradients and statistics.

    A loss is recognised by its form. The labels are an input that meets no parameter on its way to the loss, and the
    scores are what meets it there. Without a loss, or if the model is nothing but a loss, the outputs are all except
    running statistics.

    Args:
        model: the model.
        known: its `parameters`.

    Raises:
        OnnxCbpError: the loss cannot be told from the network; one line that says to name the outputs.
    """
    graph, flow = model.graph, _Flow(model.graph)
    result: list[ir.Value] = []
    judged: set[ir.Value] = set()
    loss = _loss(graph)
    if loss is not None:
        inputs = [value for value in graph.inputs if value not in known and not value.is_initializer()]
        behind = flow.ancestors(loss)
        targets = [value for value in inputs if flow.meets_none(value, behind, known)]
        scores = flow.meetings(targets, [v for v in inputs if v not in targets], behind, known)
        if scores:
            judged = flow.dependants(targets)
            result += dict.fromkeys(_merged(scores, set(graph.outputs), known))
        elif _trains(graph) or (_is_loss_op(loss) and not _is_alone(loss)):
            raise OnnxCbpError(
                f"what feeds the loss '{loss.name}' cannot be told: name the outputs to keep with --output-name"
            )
    training = _training_values(model, flow)
    left_out = {*result, *judged, *training}
    result += [value for value in graph.outputs if value not in left_out]
    if not result:
        raise OnnxCbpError("no output of the model is a result of inference: name those to keep with --output-name")
    return result


def _loss(graph: ir.Graph) -> ir.Value | None:
    """The first output, if it may be a loss: in a training graph, of a loss op, or a single number (but no flag)."""
    first = next(iter(graph.outputs), None)
    if first is None or first.producer() is None:
        return None
    is_tensor = isinstance(first.type, ir.TensorType) and first.dtype is not None and first.dtype.is_floating_point()
    scalar = is_tensor and first.shape is not None and len(first.shape) == 0
    return first if _trains(graph) or scalar or _is_loss_op(first) else None


def _trains(graph: ir.Graph) -> bool:
    return any(is_gradient_accumulator(node) for node in graph)


def _is_loss_op(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.domain in ("", "com.microsoft") and producer.op_type in _LOSSES


def _is_alone(loss: ir.Value) -> bool:
    """Whether nothing is computed before a loss's op: the model is only a loss, and no network with one."""
    producer = loss.producer()
    return producer is not None and all(value is None or value.producer() is None for value in producer.inputs)


def _training_values(model: ir.Model, flow: _Flow) -> set[ir.Value]:
    """Values that exist only for training: batch statistics, updated running statistics, gradients, flags."""
    begin: set[ir.Value] = set()
    normal: set[ir.Node] = set()
    for site in find_sites(model):
        if isinstance(site, BackwardSite) or (site.node.domain == DOMAIN and not is_rewritten_forward(site.node)):
            begin.update(site.node.outputs)
            continue
        normal.add(site.node)
        if isinstance(site, ForwardSite):
            statistics = (site.updated_mean, site.updated_var, site.saved_mean, site.saved_var, site.saved_inv_std)
            begin.update(value for value in statistics if value is not None)
        elif isinstance(site, InferenceSite):
            begin.update(site.superfluous)
        elif is_rewritten_forward(site.node):
            begin.update(site.node.outputs[1:])
            if (batches := counted(site.node)) is not None:
                begin.add(batches)
    for node in model.graph:
        if node not in normal and (node.domain == DOMAIN or node.op_type == "InPlaceAccumulatorV2"):
            begin.update(node.outputs)
    return flow.dependants(begin, stop=normal)


class _Flow:
    """Which values of a graph, and of its subgraphs, depend on which.

    A node with subgraphs reads everything that these read. But of its results only those depend on a value in a
    subgraph that are returned for what is computed from it.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._reads = {node: _read(node) for node in graph}
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node, values in self._reads.items():
            for value in values:
                self._readers.setdefault(value, []).append(node)
        self._regions = Regions(graph)

    def dependants(self, values: Iterable[ir.Value], stop: Container[ir.Node] = ()) -> set[ir.Value]:
        """The values, and all that depend on them; but not through the nodes of `stop`."""
        found: set[ir.Value] = set()
        todo = list(values)
        while todo:
            value = todo.pop()
            if value not in found:
                found.add(value)
                todo += self._regions.returned(value)
                for node, place in value.uses():
                    todo += () if node in stop else self._regions.read_by(node, place)
        return found

    def ancestors(self, *values: ir.Value) -> set[ir.Node]:
        """The nodes that compute the values."""
        found: set[ir.Node] = set()
        todo = [value.producer() for value in values]
        while todo:
            node = todo.pop()
            if node is not None and node in self._reads and node not in found:
                found.add(node)
                todo += [read.producer() for read in self._reads[node]]
        return found

    def meets_none(self, value: ir.Value, behind: set[ir.Node], known: set[ir.Value]) -> bool:
        """Whether an input reaches the loss without meeting a parameter on the way."""
        way = self._way([value], behind)
        return bool(way) and not any(read in known for node in way for read in self._reads[node])

    def meetings(
        self, targets: list[ir.Value], data: list[ir.Value], behind: set[ir.Node], known: set[ir.Value]
    ) -> list[ir.Value]:
        """The values that meet the targets on their way to the loss, and depend on data and parameters; in order."""
        judged = self.dependants(targets)
        made = self.dependants(data) & self.dependants(known)
        way = self._way(targets, behind)
        found = {read for node in way for read in self._reads[node] if read in made and read not in judged}
        return [value for node in self._graph for value in node.outputs if value in found]

    def _way(self, values: list[ir.Value], behind: set[ir.Node]) -> set[ir.Node]:
        return {node for made in self.dependants(values) for node in self._readers.get(made, ())} & behind


def _read(node: ir.Node) -> list[ir.Value]:
    """Everything that a node reads, including what the outputs of its subgraphs need."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.is_ref() or attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            continue
        for graph in [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs():
            needed = dict.fromkeys(graph.outputs)
            for inner in reversed(graph):
                if any(value in needed for value in inner.outputs):
                    needed.update(dict.fromkeys(_read(inner)))
            values += needed
    return values


def _merged(scores: list[ir.Value], outputs: set[ir.Value], known: set[ir.Value]) -> Iterator[ir.Value]:
    """Joins scores that the loss itself made from one value, such as log(p) and log(1 - p): they become that value."""
    chains = [_chain(score, known) for score in scores]
    for index, (score, chain) in enumerate(zip(scores, chains, strict=True)):
        others = {value for other, each in enumerate(chains) if other != index for value in each}
        shared = [value for value in chain if value in others]
        if not shared:
            yield score
            continue
        reached = next((value for value in shared if value in outputs), shared[0])
        producer = reached.producer()
        linked = reached not in outputs and producer is not None and producer.op_type in _LINKS
        operand = producer.inputs[0] if linked and producer is not None else None
        yield reached if operand is None else operand


def _chain(value: ir.Value, known: set[ir.Value]) -> list[ir.Value]:
    """The value and its ancestors, as long as each is computed from a single value and constants."""
    chain = [value]
    while (node := chain[-1].producer()) is not None:
        operands = {read for read in _read(node) if ir.convenience.get_const_tensor(read) is None}
        if len(operands) != 1 or operands & known or any(read in known for read in _read(node)):
            break
        chain.append(operands.pop())
    return chain


def inputs_of_outputs(model: ir.Model) -> list[ir.Value]:
    """The inputs on which some output of the graph depends."""
    graph, known = model.graph, Regions(model.graph)
    needed: set[ir.Value] = set()
    todo: list[ir.Value | None] = list(graph.outputs)
    while todo:
        value = todo.pop()
        if value is not None and value not in needed:
            needed.add(value)
            todo += known.made_of(value)
    return [value for value in graph.inputs if value in needed]


def named_outputs(model: ir.Model, names: Iterable[str]) -> list[ir.Value]:
    """The values of the graph with these names, each once.

    Raises:
        OnnxCbpError: no node of the main graph makes a value of that name.
    """
    made = {value.name: value for node in model.graph for value in node.outputs if value.name}
    result: dict[ir.Value, None] = {}
    for name in names:
        if name not in made:
            first = ", ".join(f"'{value.name}'" for value in model.graph.outputs[:5])
            raise OnnxCbpError(
                f"no node makes a value '{name}': name one that is made; the model's outputs begin {first}"
            )
        result[made[name]] = None
    return list(result)
