"""Removes the results of an If, a Loop or a Scan that nothing reads."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import is_used, succeed
from onnx_cbp.graph_passes.core.values.regions import before_results, carried, is_followed, regions

_PER_RESULT = ("scan_output_axes", "scan_output_directions")


class DropUnreadResultsPass(InPlacePass):
    """An If, Loop, Scan or SequenceMap loses the results that nothing reads, and its subgraphs return none for them.

    As long as a branch returns the statistics of its batch norm, they are needed there. States, which a body gets again
    in its next step, stay. So does one result of an op of which nothing is read: the removal of unused nodes removes
    the op.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Change the model in place; what only the removed results needed stays, without readers."""
        dropped = [_drop(node) for node in all_nodes(model) if is_followed(node)]
        return PassResult(model, any(dropped))


def _drop(node: ir.Node) -> bool:
    states = carried(node)
    kept = [index for index, value in enumerate(node.outputs) if index < states or is_used(value)]
    before, inside = before_results(node), regions(node)
    if not kept or len(kept) == len(node.outputs):
        return False
    if any(len(region.outputs) != before + len(node.outputs) for region in inside):
        return False  # not valid: ONNX's checker or ONNX Runtime reports it
    for region in inside:
        returned = list(region.outputs)
        region.outputs[:] = [*returned[:before], *(returned[before + index] for index in kept)]
    for name in _PER_RESULT:
        if name in node.attributes:
            values = node.attributes[name].as_ints()
            node.attributes[name] = ir.AttrInt64s(name, [values[index - states] for index in kept if index >= states])
    for place, index in enumerate(kept):
        if place != index:
            _move(node.outputs[index], node.outputs[place])
    node.resize_outputs(len(kept))
    return True


def _move(value: ir.Value, place: ir.Value) -> None:
    """Let the result at another place, which nothing reads, become what a result was."""
    place.type, place.shape = value.type, value.shape
    place.metadata_props.clear()
    place.meta.clear()
    succeed(value, place)
