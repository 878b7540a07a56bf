"""Moves the nodes that write running statistics, so that each runs right after its batch norm."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.values.ancestry import made_of


class WriteEarlyPass(InPlacePass):
    """Moves the nodes that write running statistics in place to the end of the graph, in reverse order of the layers.

    ONNX Runtime orders nodes depth first, starting from the last node in the list whose results nobody reads. At the
    end, a writer runs right after its batch norm. Where it is now, it would run at the end of the step, and the
    statistics would need memory until then. A writer is not moved if something else reads the statistics that it
    overwrites.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Move in place."""
        graph = model.graph
        before = list(graph)
        place = {node: number for number, node in enumerate(before)}
        writers = [node for node in before if _writes_unread(node) and not _read_elsewhere(node)]
        # Ordered by where the statistics are computed, which does not move: so a second run changes nothing.
        writers.sort(key=lambda writer: place[_made_by(writer)], reverse=True)
        for writer in writers:
            graph.remove(writer)
            graph.append(writer)
        return PassResult(model, list(graph) != before)


def _writes_unread(node: ir.Node) -> bool:
    if (node.domain, node.op_type) != ("com.microsoft", "InPlaceAccumulatorV2") or len(node.inputs) < 2:
        return False
    return not any(output.uses() or output.is_graph_output() for output in node.outputs)


def _made_by(writer: ir.Node) -> ir.Node:
    """The node that computes the value to be written."""
    assert writer.inputs[1] is not None
    producer = writer.inputs[1].producer()
    assert producer is not None
    return producer


def _read_elsewhere(writer: ir.Node) -> bool:
    """Whether a node that need not run before the writer reads the value that it overwrites."""
    written, new = writer.inputs[:2]
    if written is None or new is None or new.producer() is None or written.is_graph_output():
        return True
    readers: set[ir.Node | None] = {node for node, _ in written.uses() if node is not writer}
    for value in made_of(new):
        if not readers:
            break
        readers.discard(value.producer())
    return bool(readers)
