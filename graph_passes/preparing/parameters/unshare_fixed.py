"""Gives each batch norm its own scale and bias if these are shared and not trained."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.sites import ForwardSite, InferenceSite
from onnx_cbp.graph_passes.core.splice import Names


class UnshareFixedPass(InPlacePass):
    """Every batch norm that reads such a scale or bias gets a copy of it, except the first.

    If batch norms have no scale and bias of their own, exporters let all batch norms of one size share one vector of
    ones and one of zeros. ONNX Runtime's gradient builder names the gradient of each batch norm after the vector. It
    does not add the gradients up, since nobody needs them, and two values with one name make the model invalid.

    Args:
        trained: names of the parameters with a gradient; these stay shared.
    """

    def __init__(self, trained: Collection[str]) -> None:
        super().__init__()
        self._trained = frozenset(trained)

    def call(self, model: ir.Model) -> PassResult:
        """Copy in place."""
        names = Names(model)
        read: set[ir.Value] = set()
        modified = False
        for site in find_sites(model):
            if not isinstance(site, ForwardSite | InferenceSite):
                continue
            for value in (site.scale, site.B):
                if value in read and value.name not in self._trained:
                    modified |= _copy(value, site.node, names)
                read.add(value)
        return PassResult(model, modified)


def _copy(value: ir.Value, node: ir.Node, names: Names) -> bool:
    """Let a node read a copy of a value wherever it reads the value itself."""
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        return False
    name = names.fresh(f"{value.name}/own")
    if value.is_initializer() and value.const_value is not None:
        copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=ir.tensor(value.const_value.numpy()))
        graph.register_initializer(copy)
    else:
        copy = ir.Value(name=name, shape=value.shape, type=value.type)
        identity = ir.node("Identity", [value], outputs=[copy], name=names.fresh(f"{value.name}/Identity"))
        graph.insert_before(node, identity)
    for index, read in enumerate(node.inputs):
        if read is value:
            node.replace_input_with(index, copy)
    return True
