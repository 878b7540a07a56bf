"""Completes the gradients of our ops that ONNX Runtime's gradient builder wrote."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.sites import BackwardSite
from onnx_cbp.graph_passes.core.splice import Names, Splice, statistics_type
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import built_gradient, forward_name
from onnx_cbp.graph_passes.rewriting.modes.freeze import frozen_gradients
from onnx_cbp.graph_passes.rewriting.replace_forward import reciprocal_std


class CompleteGradientsPass(InPlacePass):
    """Turns the placeholders that the builder wrote (`custom_ops.gradients`) into the gradients of their forward nodes.

        BatchNormTrainUpdate                 BatchNormGrad(dY, X, scale, mean, inv_std)
        BatchNormTrainUpdate with relu = 1   BatchNormReluGrad(dY, Y, X, scale, mean, inv_std)
        BatchNormTrain                       BatchNormGrad(dY, X, scale, mean, 1 / sqrt(var + epsilon))
        ChannelNormalize                     the gradients of a frozen batch norm, as `FreezePass` writes them

    Run it on a graph that the builder has just made, while every node of ours has a unique name.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Complete in place."""
        names, types = Names(model), Types(model)
        by_name = {node.name: node for node in model.graph if node.domain == DOMAIN}
        modified = False
        for node in list(model.graph):
            name = forward_name(node)
            if name is not None:
                forward = by_name[name]
                site = built_gradient(node, forward.attributes["axis"].as_int())
                _complete(site, forward, forward.attributes["epsilon"].as_float(), names, types)
                modified = True
        return PassResult(model, modified)


def _complete(site: BackwardSite, forward: ir.Node, epsilon: float, names: Names, types: Types) -> None:
    splice = Splice(site.node, names, types)
    if forward.op_type == "ChannelNormalize":
        frozen_gradients(site, site.mean, site.inv_std, epsilon, splice, types)
        splice.commit()
        return
    dtype = statistics_type(site.scale, types)
    inv_std = site.inv_std
    if forward.op_type == "BatchNormTrain":
        inv_std = reciprocal_std(splice, inv_std, dtype, epsilon)
    relu = forward.attributes.get("relu")
    folded = relu is not None and bool(relu.as_int())
    results = splice.channel_op(
        "BatchNormReluGrad" if folded else "BatchNormGrad",
        (site.dY, *([forward.outputs[0]] if folded else []), site.X, site.scale, site.mean, inv_std),
        (
            ("dX", site.X.dtype, site.X.shape),
            ("scale_grad", dtype, site.scale.shape),
            ("bias_grad", dtype, site.scale.shape),
        ),
        axis=site.axis,
    )
    for old, new in zip((site.dX, site.scale_grad, site.bias_grad), results, strict=True):
        splice.hand_over(old, new)
    splice.commit()
