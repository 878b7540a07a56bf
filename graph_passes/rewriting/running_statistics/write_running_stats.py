"""Writes updated running statistics into their parameters."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Draft, Names
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import running_statistics
from onnx_cbp.graph_passes.rewriting.replace_forward import InPlaceWrites, is_parameter, write_in_place


class WriteRunningStatsPass(InPlacePass):
    """Every op of ours that updates running statistics gets a writer, if they are fed and nothing writes them yet.

        InPlaceAccumulatorV2(running, updated, overwrite)

    If several layers share a statistic, they update it one after another, and it is written once.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Add the nodes in place."""
        names, types, writes = Names(model), Types(model), InPlaceWrites()
        written = {
            node.inputs[0]
            for node in model.graph
            if node.op_type == "InPlaceAccumulatorV2" and node.inputs[0] is not None
        }
        modified = False
        for node in list(model.graph):
            for index, running in running_statistics(node):
                if not is_parameter(running) or running in written:
                    continue
                read = node.inputs[index]
                reader = node if read is running else None if read is None else read.producer()
                assert reader is not None
                reader.replace_input_with(index if reader is node else 0, writes.latest(running, model.graph))
                draft = Draft(label(node), names, types)
                new = node.outputs[index]
                if running.dtype is not None:
                    new = draft.cast(new, running.dtype, f"{running.name}_as_before")
                writer = write_in_place(draft, running.name or "running", running, new)
                model.graph.insert_after(node, draft.nodes)
                writes.move(running, model.graph, writer)
                modified = True
        return PassResult(model, modified)
