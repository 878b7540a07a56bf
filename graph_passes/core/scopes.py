"""All graphs, subgraphs and functions of a model."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN, OPSET_VERSION


def scopes(model: ir.Model) -> list[ir.Graph | ir.Function]:
    """The main graph and the model-local functions."""
    return [model.graph, *model.functions.values()]


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the main graph, subgraphs and model-local functions."""
    for scope in scopes(model):
        yield from RecursiveGraphIterator(scope)


def import_domain(model: ir.Model) -> None:
    """Import our domain in every scope that has one of its nodes."""
    model.opset_imports[DOMAIN] = OPSET_VERSION
    for function in model.functions.values():
        if any(node.domain == DOMAIN for node in RecursiveGraphIterator(function)):
            function.opset_imports[DOMAIN] = OPSET_VERSION
