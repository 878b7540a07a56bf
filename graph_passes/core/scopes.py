"""All graphs, subgraphs and functions of a model."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN, OPERATORS, OPSET_VERSION


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


def write_defaults(model: ir.Model) -> None:
    """Write the attributes that nodes of our ops leave out, so that whoever reads a node finds them all.

    A node that takes its windows from the caller of a function is left as it is, until the function is inlined.
    """
    for node in all_nodes(model):
        operator = OPERATORS.get(node.op_type) if node.domain == DOMAIN else None
        kernel = node.attributes.get("kernel_shape")
        axes = 0 if kernel is None or kernel.is_ref() else len(kernel.as_ints())
        if operator is None or (operator.has_windows and not axes):
            continue
        for name, value in operator.defaults(axes).items():
            if name not in node.attributes:
                node.attributes[name] = ir.convenience.convert_attribute(name, value)
