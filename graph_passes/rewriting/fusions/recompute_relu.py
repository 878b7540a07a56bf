"""Lets the gradient of a folded ReLU recompute its mask, instead of reading the ReLU's result."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import Names, Splice
from onnx_cbp.graph_passes.core.types import Types


class RecomputeReluPass(InPlacePass):
    """Saves the gradient from reading one tensor, if the forward op is ours and in the same graph.

        Y, mean, inv_std, ... = BatchNormTrainUpdate(X, scale, ..., relu=1)
        dX, ... = BatchNormReluGrad(dY, Y, X, scale, mean, inv_std)
    ->
        Y, mean, inv_std, ..., slope, offset = BatchNormReluTrainUpdate(X, scale, ...)
        dX, ... = BatchNormRecomputeReluGrad(dY, X, scale, mean, inv_std, slope, offset)

    Run it after `FoldReluPass`. It does nothing if X is double and the statistics are float: Y would then be computed
    from coefficients that are rounded to float.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        names, types = Names(model), Types(model)
        modified = False
        for node in list(all_nodes(model)):
            if node.op_type == "BatchNormReluGrad" and node.domain == DOMAIN:
                modified |= _recompute(node, names, types)
        return PassResult(model, modified)


def _recompute(node: ir.Node, names: Names, types: Types) -> bool:
    dY, Y, X, scale, mean, inv_std = node.inputs
    forward = None if Y is None else Y.producer()
    if forward is None or forward.graph is not node.graph or not _made(forward, node):
        return False
    assert X is not None
    assert scale is not None
    if types.of(X) == ir.DataType.DOUBLE and types.of(scale) != ir.DataType.DOUBLE:
        return False
    if forward.op_type == "BatchNormTrainUpdate":
        forward = _keep_coefficients(forward, names, types)
        mean, inv_std = forward.outputs[1:3]
    Splice(node, names, types).become(
        "BatchNormRecomputeReluGrad",
        (dY, X, scale, mean, inv_std, *forward.outputs[5:]),
        axis=node.attributes["axis"].as_int(),
    )
    return True


def _made(forward: ir.Node, node: ir.Node) -> bool:
    """Whether the node is the gradient of the forward node's result, with that node's own statistics."""
    _, Y, X, scale, mean, inv_std = node.inputs
    if forward.domain != DOMAIN:
        return False
    if forward.op_type == "BatchNormTrainUpdate":
        made = forward.attributes["relu"].as_int() == 1
    else:
        made = forward.op_type == "BatchNormReluTrainUpdate"
    return (
        made
        and forward.attributes["axis"].as_int() == node.attributes["axis"].as_int()
        and (X, scale) == tuple(forward.inputs[:2])
        and (Y, mean, inv_std) == tuple(forward.outputs[:3])
    )


def _keep_coefficients(forward: ir.Node, names: Names, types: Types) -> ir.Node:
    """Replace the forward node by the op that keeps slope and offset."""
    vector = forward.outputs[1]
    attributes = {name: forward.attributes[name].value for name in ("axis", "epsilon", "momentum", "unbiased")}
    return Splice(forward, names, types).become(
        "BatchNormReluTrainUpdate",
        forward.inputs,
        [("slope", vector.dtype, vector.shape), ("offset", vector.dtype, vector.shape)],
        **attributes,
    )
