"""Whether an optimiser may write over what it reads, and take one part of its vectors after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

#: ONNX Runtime may let the result lie where the input does.
_SHARES = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
#: Each element of the result is written after the elements at its place were read, and no other is read then.
_WRITES = frozenset(("Add", "Sub", "Mul", "Div"))
#: Each element of the result depends on the elements at its place.
_ELEMENTWISE = _WRITES | {"Abs", "Cast", "Clip", "Identity", "Max", "Min", "Neg", "Pow", "Sign", "Sqrt", "Where"}


def may_overwrite(graph: ir.Graph, before: str, after: str) -> bool:
    """Whether everything has read an input when an output of its type and shape is written.

    That is so if every node that reads the input comes before the writer in every order, or is the writer.

    Args:
        graph: without subgraphs.
        before: the name of the input.
        after: the name of the output.
    """
    given = next((value for value in graph.inputs if value.name == before), None)
    result = next((value for value in graph.outputs if value.name == after), None)
    writer = None if result is None else result.producer()
    if given is None or writer is None or writer.op_type not in _WRITES:
        return False
    earlier = _needed_by(writer)
    waiting = [given]
    while waiting:
        value = waiting.pop()
        readers = [node for node, _ in value.uses()]
        if value.is_graph_output() or any(node is not writer and node not in earlier for node in readers):
            return False
        waiting += [output for node in readers if node.op_type in _SHARES for output in node.outputs]
    return True


def _needed_by(node: ir.Node) -> set[ir.Node]:
    """All nodes that must have run before a node."""
    found: set[ir.Node] = set()
    waiting = [node]
    while waiting:
        for value in waiting.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer not in found:
                found.add(producer)
                waiting.append(producer)
    return found


def is_elementwise(graph: ir.Graph, vectors: Sequence[str]) -> bool:
    """Whether what a graph makes of vectors of one length can be computed one part after the other.

    Args:
        graph: without subgraphs.
        vectors: the names of the inputs that are vectors; the others, and constants, are scalars.
    """
    made = set(_of_vectors(graph, vectors))
    for node in graph:
        if not made.intersection(node.outputs):
            continue
        others = [value for value in node.inputs if value is not None and value not in made]
        if node.op_type not in _ELEMENTWISE or any(value.shape is None or not _is_one(value.shape) for value in others):
            return False
    return True


def free_lengths(graph: ir.Graph, vectors: Sequence[str]) -> None:
    """Let vectors, and all that is made of them, have any length."""
    for value in _of_vectors(graph, vectors):
        value.shape = ir.Shape(["length"])


def _of_vectors(graph: ir.Graph, vectors: Sequence[str]) -> Iterator[ir.Value]:
    found = {value for value in graph.inputs if value.name in vectors}
    yield from found
    for node in graph:
        if found.intersection(node.inputs):
            found.update(node.outputs)
            yield from node.outputs


def _is_one(shape: ir.Shape) -> bool:
    return all(size == 1 for size in shape)
