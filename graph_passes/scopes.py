"""Everything in a model that has nodes of its own."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator


def scopes(model: ir.Model) -> list[ir.Graph | ir.Function]:
    """The main graph and the model-local functions."""
    return [model.graph, *model.functions.values()]


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node: of the main graph, of subgraphs, of model-local functions."""
    for scope in scopes(model):
        yield from RecursiveGraphIterator(scope)
