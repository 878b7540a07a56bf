"""All graphs and nodes of an ONNX model, and how messages name them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

#: What ONNX's own domain is called in models; the two mean the same.
ONNX_DOMAINS = ("", "ai.onnx")

#: (domain, name, overload) of a function.
Identifier = tuple[str, str, str]

Scope = onnx.GraphProto | onnx.FunctionProto


def canonical(domain: str) -> str:
    """A domain by the one of its spellings that is used from here on."""
    return "" if domain in ONNX_DOMAINS else domain


def identifier(node: onnx.NodeProto) -> Identifier:
    """The identifier of the function that a node calls, if it calls one."""
    return canonical(node.domain), node.op_type, getattr(node, "overload", "")


def function_identifier(function: onnx.FunctionProto) -> Identifier:
    """The identifier of a function."""
    return canonical(function.domain), function.name, getattr(function, "overload", "")


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node has as attributes."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def graphs(scope: Scope) -> Iterator[Scope]:
    """The graph or function, and every subgraph in it."""
    waiting: list[Scope] = [scope]
    while waiting:
        current = waiting.pop()
        yield current
        for node in current.node:
            if node.attribute:
                waiting.extend(subgraphs(node))


def nodes(scope: Scope) -> Iterator[onnx.NodeProto]:
    """The nodes of the graph or function, and of every subgraph in it."""
    for graph in graphs(scope):
        yield from graph.node


def scopes(model: onnx.ModelProto) -> Sequence[Scope]:
    """The main graph and the functions."""
    return [model.graph, *model.functions]


def called(node: onnx.NodeProto) -> str:
    """A node as a message names it: its name, or that of its first output, and its op."""
    name = node.name or next((name for name in node.output if name), "")
    domain = canonical(node.domain)
    op_type = f"{domain}.{node.op_type}" if domain else node.op_type
    return f"node '{name}' ({op_type})" if name else f"a node {op_type} without a name"
