"""Disconnects nodes that are to be dropped, so that what they read no longer counts as read."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnx_cbp.graph_passes.core.values.ancestry import subgraphs


def detach(nodes: Iterable[ir.Node]) -> None:
    """Let nodes that stand in no graph read nothing, so that they may be forgotten; those in their graphs, too."""
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
        for attribute in node.attributes.values():
            for graph in subgraphs(attribute):
                graph.outputs.clear()
                detach(graph)
