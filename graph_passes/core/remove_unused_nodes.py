"""Removes nodes that nothing reads."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.detach import detach
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.values.ancestry import subgraphs


class RemoveUnusedNodesPass(InPlacePass):
    """Removes nodes that nothing reads, without changing the mode of batch norms.

    What only a removed If, Loop or Scan read inside is removed, too: onnx-ir's own pass lets their nodes go on reading.

    Older versions of onnx-ir's own pass of this name turn a batch norm into inference form if nothing reads its running
    statistics, although it normalises with the statistics of its batch.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Remove them."""
        norms = [node for node in all_nodes(model) if node.op_type == "BatchNormalization"]
        modes = [(node, node.attributes.get("training_mode")) for node in norms]
        names = [(value, value.name) for node in norms for value in node.outputs]
        modified = _remove(model)
        for node, mode in modes:
            if mode is not None and "training_mode" not in node.attributes:
                node.attributes["training_mode"] = mode
        for value, name in names:  # below opset 14 the names of these outputs are what says the mode
            if value.name != name:
                value.name = name
        return PassResult(model, modified)


def _remove(model: ir.Model) -> bool:
    """Remove until no removed node reads anything in its subgraphs any more."""
    modified = False
    while True:
        holders = [node for node in all_nodes(model) if any(map(subgraphs, node.attributes.values()))]
        modified |= onnx_ir.passes.common.RemoveUnusedNodesPass()(model).modified
        gone = [node for node in holders if node.graph is None]
        if not gone:
            return modified
        detach(gone)
