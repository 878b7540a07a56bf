"""Whether a run may write an output where one of its inputs lies."""

from __future__ import annotations

import onnx_ir as ir

#: ONNX Runtime may let the result lie where the input does.
_SHARES = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
#: Each element of the result is written after the elements at its place were read, and no other is read then.
_WRITES = frozenset(("Add", "Sub", "Mul", "Div"))


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
