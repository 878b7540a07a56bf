"""Draws the graph around a batch norm, before and after `rewrite`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.graph_passes import Site
from onnx_cbp.graph_passes.core.scopes import scopes
from onnx_cbp.report.layout import place

#: How many nodes are followed upwards and downwards from a batch norm, and how many readers of a value are shown.
REACH, READERS = 2, 3
_WIDTH, _HEAD, _ROW, _PAD = 230.0, 26.0, 16.0, 6.0
_ROWS = 6
_LONGEST = 200  # characters of an attribute

Drawing = dict[str, Any]


class Rewrite:
    """A model and its rewritten form; nodes of both are matched by the names of their results."""

    def __init__(self, before: ir.Model, after: ir.Model | None, sites: Iterable[Site], reach: int = REACH) -> None:
        self._reach = reach
        self._sites = {site.node for site in sites}
        self._before, self._after = _by_output(before), _by_output(after)
        self._old, self._new = _nodes_of(self._before), _nodes_of(self._after)
        self._kept = set(self._old) & set(self._new)
        self._same = {key for key in self._kept if _op(self._old[key]) == _op(self._new[key])}

    def draw(self, *sites: Site) -> tuple[Drawing, Drawing | None]:
        """A batch norm before the rewrite and after it; None if it was not rewritten.

        Several sites are drawn together: a batch norm and its gradient.
        """
        core = {node for site in sites for node in self._replaced(site)}
        made = self._put_there(core)
        before = _draw(
            core, self._reach, lambda node: ("old" if made else "own") if node in core else self._other(node)
        )
        return before, _draw(
            made, self._reach, lambda node: "new" if node in made else self._other(node)
        ) if made else None

    def _other(self, node: ir.Node) -> str:
        """Whether a neighbour is another batch norm, or belongs to the rewrite of one; "" for neither."""
        return "other" if node in self._sites or (self._after and _key(node) not in self._same) else ""

    def _replaced(self, site: Site) -> set[ir.Node]:
        """The nodes of a batch norm, and those that disappear with it: a folded Relu, transposes around it."""
        core = {site.node, *getattr(site, "interior", ())}
        if not self._after:
            return core
        waiting = list(core)
        while waiting:
            node = waiting.pop()
            for near in (*_makers(node), *_readers(node)):
                if near not in core and _key(near) not in self._kept and near.op_type in _GO_ALONG:
                    core.add(near)
                    waiting.append(near)
        return core

    def _put_there(self, core: Collection[ir.Node]) -> set[ir.Node]:
        """The nodes that now compute the batch norm's results, and those that only serve them."""
        results = {value.name for node in core for value in node.outputs if value.name}
        made: set[ir.Node] = set()
        waiting = [self._after[name] for name in results if name in self._after]
        while waiting:
            node = waiting.pop()
            if node in made or _key(node) in self._same:
                continue
            made.add(node)
            waiting += [maker for maker in _makers(node) if not self._is_old(maker)]
            waiting += [reader for reader in _readers(node) if not self._is_old(reader)]
        return made

    def _is_old(self, node: ir.Node) -> bool:
        """Whether a node makes a value that the original has, so that it does not belong to this rewrite."""
        return any(value.name in self._before for value in node.outputs)


#: Ops that may be a part of a batch norm's rewrite, if they are gone afterwards.
_GO_ALONG = frozenset({"Relu", "ReluGrad", "Transpose", "Identity", "Constant", "Cast"})


def _by_output(model: ir.Model | None) -> dict[str, ir.Node]:
    """The node that makes each value."""
    if model is None:
        return {}
    nodes = (node for scope in scopes(model) for node in RecursiveGraphIterator(scope))
    return {value.name: node for node in nodes for value in node.outputs if value.name}


def _nodes_of(by_output: dict[str, ir.Node]) -> dict[tuple[str, ...], ir.Node]:
    return {_key(node): node for node in by_output.values()}


def _key(node: ir.Node) -> tuple[str, ...]:
    return tuple(value.name or "" for value in node.outputs)


def _op(node: ir.Node) -> tuple[str, str]:
    return node.domain, node.op_type


def _makers(node: ir.Node) -> list[ir.Node]:
    found = [None if value is None else value.producer() for value in node.inputs]
    return [n for n in dict.fromkeys(found) if n is not None and n.op_type != "Constant" and n.graph is node.graph]


def _readers(node: ir.Node) -> list[ir.Node]:
    found = [use.node for value in node.outputs for use in value.uses()]
    return [reader for reader in dict.fromkeys(found) if reader.graph is node.graph]


def _neighbourhood(
    core: Collection[ir.Node], reach: int, state: Callable[[ir.Node], str]
) -> tuple[list[ir.Node], dict[ir.Node, int]]:
    """The core and the nodes near it, in the order of the graph, and how many readers of each are not shown.

    The search stops at other batch norms.
    """
    chosen = dict.fromkeys(core)
    above: Iterable[ir.Node] = core
    for _ in range(reach):
        above = dict.fromkeys(maker for node in above for maker in _makers(node) if maker not in chosen)
        chosen |= above
    below, left_out = list(core), {}
    for _ in range(reach):
        next_ones: dict[ir.Node, None] = {}
        for node in below:
            if state(node) == "other":
                continue
            readers = [reader for reader in _readers(node) if reader not in chosen]
            shown = [reader for reader in readers if reader in next_ones] or readers[:READERS]
            left_out[node] = len([reader for reader in readers if reader not in shown])
            next_ones |= dict.fromkeys(shown)
        chosen |= next_ones
        below = list(next_ones)
    graph = next(iter(core)).graph
    order = {node: number for number, node in enumerate(graph or ())}
    return sorted(chosen, key=lambda node: order.get(node, -1)), left_out


def _draw(core: Collection[ir.Node], reach: int, state: Callable[[ir.Node], str]) -> Drawing:
    """A graph as JSON-ready values: boxes with their places, and lines between them."""
    nodes, left_out = _neighbourhood(core, reach, state)
    at = {node: number for number, node in enumerate(nodes)}
    lines: dict[tuple[int, int], list[ir.Value]] = {}
    boxes = []
    for node in nodes:
        rows: list[list[str]] = []
        names = _formals(node.domain, node.op_type)
        for number, value in enumerate(node.inputs):
            if value is None:
                continue
            maker = value.producer()
            if maker in at:
                lines.setdefault((at[maker], at[node]), []).append(value)
            elif value.is_initializer() or value.is_graph_input() or (maker and maker.op_type == "Constant"):
                rows.append([names[number] if number < len(names) else "", value.name or "", _shape(value)])
        if len(rows) > _ROWS:
            rows[_ROWS - 1 :] = [["", f"{len(rows) - _ROWS + 1} more", ""]]
        boxes.append(_box(node, state(node), rows, left_out.get(node, 0)))
    edges = list(lines)
    placement = place([(_WIDTH, box["h"]) for box in boxes], edges)
    for box, (x, y) in zip(boxes, placement.places, strict=True):
        box["x"], box["y"] = round(x, 1), round(y, 1)
    drawn = [
        {
            "ends": edge,
            "points": [[round(x, 1), round(y, 1)] for x, y in route],
            "values": [[value.name or "", _shape(value)] for value in lines[edge]],
        }
        for edge, route in zip(edges, placement.routes, strict=True)
    ]
    return {"width": round(placement.width), "height": round(placement.height), "nodes": boxes, "edges": drawn}


def _box(node: ir.Node, state: str, rows: Sequence[Sequence[str]], more: int) -> dict[str, Any]:
    height = _HEAD + _ROW * len(rows) + (_PAD if rows else 0)
    return {
        "op": node.op_type,
        "domain": node.domain,
        "name": node.name or "",
        "state": state,
        "rows": rows,
        "more": more,
        "w": _WIDTH,
        "h": height,
        "inputs": [_described(value) for value in node.inputs],
        "outputs": [_described(value) for value in node.outputs],
        "attributes": [[name, _text(attribute)] for name, attribute in node.attributes.items()],
    }


def _described(value: ir.Value | None) -> list[str]:
    return ["", ""] if value is None else [value.name or "", _shape(value)]


def _shape(value: ir.Value) -> str:
    return "" if value.shape is None else str(ir.Shape(value.shape))


def _text(attribute: ir.Attr) -> str:
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "a graph"
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return f"{tensor.dtype} {list(tensor.shape)}" if tensor.size > READERS else str(tensor.numpy().tolist())
    text = str(attribute.value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


@cache
def _formals(domain: str, op_type: str) -> list[str]:
    """The names of the inputs of an op."""
    if domain == DOMAIN:
        operator = OPERATORS.get(op_type)
        return [] if operator is None else [tensor.name for tensor in operator.inputs]
    try:
        return [formal.name for formal in onnx.defs.get_schema(op_type, domain).inputs]
    except onnx.defs.SchemaError:
        return list(_OF_ONNX_RUNTIME.get(op_type, ()))


#: The inputs of ops for which the onnx package has no schemas (onnxruntime/core/graph/training_ops_defs.cc).
_OF_ONNX_RUNTIME = {
    "BatchNormInternal": ("X", "scale", "B", "input_mean", "input_var"),
    "BatchNormalizationGrad": ("dY", "X", "scale", "mean", "inv_std"),
    "ConvGrad": ("dY", "X", "W"),
    "InPlaceAccumulatorV2": ("accumulation_buffer", "new_value", "overwrite_flag"),
}
