"""The inner nodes of a batch norm in arithmetic: which of them it alone needs, and whose values others read."""

from __future__ import annotations

import onnx_ir as ir


def unused_without(node: ir.Node, interior: tuple[ir.Node, ...], served: ir.Value | None) -> set[ir.Node]:
    """The node, and those nodes of its expression that only it needs, if another node makes the value `served`."""
    gone, before = {node}, 0
    while len(gone) != before:
        before = len(gone)
        for each in interior:
            outputs = [value for value in each.outputs if value is not served]
            if all(not v.is_graph_output() and all(use.node in gone for use in v.uses()) for v in outputs):
                gone.add(each)
    return gone


def read_behind(node: ir.Node, values: list[ir.Value], gone: set[ir.Node]) -> ir.Value | None:
    """The first of equal values that something else reads, and only after the node; others are computed as before."""
    wanted = [v for v in values if v.is_graph_output() or any(use.node not in gone for use in v.uses())]
    if not wanted or node.graph is None:
        return None
    position = {each: index for index, each in enumerate(node.graph)}
    for value in wanted:
        readers = [use.node for use in value.uses() if use.node not in gone]
        if all(position.get(reader, -1) > position[node] for reader in readers):
            return value
    return None
