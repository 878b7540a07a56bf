"""How values enter the subgraphs of a node, and how they leave them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.graph_passes.core.values.ancestry import read_inside, subgraphs

_FOLLOWED = ("If", "Loop", "Scan", "SequenceMap")


def regions(node: ir.Node) -> list[ir.Graph]:
    """The subgraphs of a node."""
    return [graph for attribute in node.attributes.values() for graph in subgraphs(attribute)]


def is_followed(node: ir.Node) -> bool:
    """Whether it is known which input and output of a node belongs to which of its subgraphs."""
    return node.domain == "" and node.op_type in _FOLLOWED and bool(regions(node))


def carried(node: ir.Node) -> int:
    """How many of the first results of a node are states, which its body gets again in the next step."""
    if node.op_type == "Loop":
        return max(len(node.inputs) - 2, 0)
    if node.op_type == "Scan":
        (body,), scanned = regions(node), node.attributes["num_scan_inputs"].as_int()
        return max(len(body.inputs) - scanned, 0)
    return 0


def before_results(node: ir.Node) -> int:
    """How many values a subgraph returns before those that are results of the node: the condition of a Loop."""
    return int(node.op_type == "Loop")


def _deciding(node: ir.Node) -> int:
    """How many of the first inputs decide over every result: whether and how often a body runs, and how long it is."""
    inside = regions(node)
    return {"If": 1, "Loop": 2, "Scan": len(node.inputs) - len(inside[0].inputs)}.get(node.op_type, 0)


def _entrance(node: ir.Node, place: int) -> int:
    """Which input of its body gets an input of a node; a Loop's body has inputs in place of the deciding ones."""
    return place if node.op_type == "Loop" else place - _deciding(node)


class Regions:
    """Follows values into subgraphs, out of them, and from one step of a Loop or Scan to the next; and back."""

    def __init__(self, graph: ir.Graph) -> None:
        self._returns: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
        self._inputs: dict[ir.Value, tuple[ir.Node, int]] = {}
        for node in RecursiveGraphIterator(graph):
            for region in regions(node):
                self._inputs.update((value, (node, place)) for place, value in enumerate(region.inputs))
                for place, value in enumerate(region.outputs):
                    self._returns.setdefault(value, []).append((node, place))

    def read_by(self, node: ir.Node, place: int) -> Sequence[ir.Value]:
        """The values that depend at once on an input of a node: its results, or inputs of its body."""
        if not is_followed(node) or place < _deciding(node):
            return node.outputs
        entrance = _entrance(node, place)
        return regions(node)[0].inputs[entrance : entrance + 1]

    def returned(self, value: ir.Value) -> list[ir.Value]:
        """The values that depend at once on one that subgraphs return: results, and states in the next step."""
        found: list[ir.Value] = []
        for node, place in self._returns.get(value, ()):
            index = place - before_results(node)
            if index < 0 or not is_followed(node):
                found += node.outputs
                continue
            found += node.outputs[index : index + 1]
            if index < carried(node):
                entrance = _entrance(node, _deciding(node) + index)
                found += regions(node)[0].inputs[entrance : entrance + 1]
        return found

    def made_of(self, value: ir.Value) -> list[ir.Value | None]:
        """The values on which one depends at once: what its node reads for it, or what its body is given."""
        node = value.producer()
        if node is None:
            return self._given(*self._inputs[value]) if value in self._inputs else []
        if not is_followed(node):
            return [*node.inputs, *read_inside(node)]
        before, deciding, index = before_results(node), _deciding(node), node.outputs.index(value)
        given: list[ir.Value | None] = list(node.inputs[:deciding])
        for region in regions(node):
            given += [*region.outputs[:before], *region.outputs[before + index : before + index + 1]]
        if index < carried(node):  # without a single step it is the state from before
            given += node.inputs[deciding + index : deciding + index + 1]
        return given

    def _given(self, node: ir.Node, entrance: int) -> list[ir.Value | None]:
        """What an input of a body is in the first step, and in later ones."""
        if not is_followed(node):
            return [*node.inputs]
        deciding = _deciding(node)
        index = entrance - _entrance(node, deciding)
        given: list[ir.Value | None] = list(node.inputs[:deciding])
        if index < 0:  # the number of the step, and the condition
            return given
        given += node.inputs[deciding + index : deciding + index + 1]
        if index < carried(node):
            place = before_results(node) + index
            given += regions(node)[0].outputs[place : place + 1]
        return given
