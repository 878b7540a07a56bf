"""Where a PyTorch module stops gradients (`Tensor.detach`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_ir as ir

#: Where PyTorch's default exporter says which call a node was written for: "%detach_1 : [...] = call_function[target=
#: torch.ops.aten.detach.default](args = (%mul,), kwargs = {})".
CALL = "pkg.torch.onnx.fx_node"
_STOPS = "target=torch.ops.aten.detach.default]"
_STOPPED = re.compile(r"%(detach(?:_\d+)?)\b")


def stops_gradients(node: ir.Node) -> bool:
    """Whether a node is the copy that PyTorch's default exporter writes for `Tensor.detach`."""
    return (node.domain, node.op_type) == ("", "Identity") and _STOPS in node.metadata_props.get(CALL, "")


def lost_stops(nodes: Iterable[ir.Node]) -> dict[str, ir.Node]:
    """The results of `detach` whose copies an optimizer removed: their names in the module, each with a reader."""
    read: dict[str, ir.Node] = {}
    kept: set[str] = set()
    for node in nodes:
        made, _, call = node.metadata_props.get(CALL, "").partition("](args = ")
        if stops_gradients(node):
            kept.update(_STOPPED.findall(made.partition(" :")[0]))
        for name in _STOPPED.findall(call):
            read.setdefault(name, node)
    return {name: node for name, node in read.items() if name not in kept}
