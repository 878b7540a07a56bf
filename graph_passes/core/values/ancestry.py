"""Finds all values that a value is computed from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.graph_passes.core.types import FLOATS, Types


def made_of(*values: ir.Value) -> Iterator[ir.Value]:
    """The values and all their ancestors, each once. Subgraphs count with the outer values that they read."""
    seen, waiting = set(values), list(values)
    while waiting:
        value = waiting.pop()
        yield value
        producer = value.producer()
        for read in () if producer is None else (*producer.inputs, *read_inside(producer)):
            if read is not None and read not in seen:
                seen.add(read)
                waiting.append(read)


def read_inside(node: ir.Node) -> list[ir.Value]:
    """The outer values that the subgraphs of a node read, each once."""
    graphs = [graph for attribute in node.attributes.values() for graph in subgraphs(attribute)]
    read: dict[ir.Value, None] = {}
    made: set[ir.Value] = set()
    for graph in graphs:
        inner = list(RecursiveGraphIterator(graph))
        below = [each for one in inner for attribute in one.attributes.values() for each in subgraphs(attribute)]
        for each in (graph, *below):
            made.update(each.inputs, each.initializers.values())
            read.update(dict.fromkeys(each.outputs))
        for one in inner:
            made.update(one.outputs)
            read.update(dict.fromkeys(value for value in one.inputs if value is not None))
    return [value for value in read if value not in made]


def made_from(
    graph: ir.Graph, values: Iterable[ir.Value], through: Callable[[ir.Value], bool] | None = None
) -> set[ir.Value]:
    """The values, and everything that a graph computes from them. What a subgraph computes counts for the node with it.

    `through` says whether a computed value counts; without it, all do.
    """
    holders = {
        subgraph: node
        for node in RecursiveGraphIterator(graph)
        for attribute in node.attributes.values()
        if not attribute.is_ref()
        for subgraph in subgraphs(attribute)
    }
    seen = set(values)
    waiting = list(seen)
    while waiting:
        for use in waiting.pop().uses():
            node: ir.Node | None = use.node
            while node is not None:
                more = [value for value in node.outputs if value not in seen and (through is None or through(value))]
                seen.update(more)
                waiting.extend(more)
                node = holders.get(node.graph)  # type: ignore[arg-type]
    return seen


def gradient_path(model: ir.Model, trained: Collection[str]) -> set[ir.Value]:
    """The values of the main graph on the way of gradients: between trained parameters and an output.

    Gradients stop at everything that is not floating-point: a shape, an index, a comparison.
    """
    types = Types(model)
    values = {value.name: value for value in model.graph.inputs} | dict(model.graph.initializers)
    parameters = [values[name] for name in trained if name in values]
    reached = made_from(model.graph, parameters, lambda value: types.of(value) in (*FLOATS, None))
    path, waiting = set[ir.Value](), [value for value in model.graph.outputs if value in reached]
    while waiting:
        value = waiting.pop()
        if value in path:
            continue
        path.add(value)
        producer = value.producer()
        if producer is not None:
            waiting.extend(read for read in _read(producer) if read in reached)
    return path


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Everything that a node and its subgraphs read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        for subgraph in () if attribute.is_ref() else subgraphs(attribute):
            yield from subgraph.outputs
            for inner in RecursiveGraphIterator(subgraph):
                yield from (value for value in inner.inputs if value is not None)


def subgraphs(attribute: ir.Attr) -> list[ir.Graph]:
    """The graphs in an attribute."""
    if attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []
