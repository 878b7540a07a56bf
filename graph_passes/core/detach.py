"""Disconnects nodes that will be dropped, so that their inputs no longer count as read."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnx_cbp.graph_passes.core.values.ancestry import subgraphs


def detach(nodes: Iterable[ir.Node]) -> None:
    """Remove all inputs of nodes that are in no graph, and of nodes in their subgraphs, before they are dropped."""
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
        for attribute in node.attributes.values():
            for graph in subgraphs(attribute):
                graph.outputs.clear()
                detach(graph)
