"""Replaces the gradients of batch norms by ops of ours."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.scopes import import_domain
from onnx_cbp.graph_passes.sites import BackwardSite
from onnx_cbp.graph_passes.splice import Names, Splice, statistics_type
from onnx_cbp.graph_passes.types import Types


class ReplaceBackwardPass(InPlacePass):
    """Every `BackwardSite` becomes ops of ours.

    With `one_pass`, for replicas that do not synchronise:

        dX, scale_grad, bias_grad = BatchNormGrad(dY, X, scale, mean, inv_std)

    Without it, or where dX is not asked for:

        scale_grad, bias_grad = ChannelBackpropStats(X, mean, inv_std, dY)
        dX = ChannelBackprop(dY, X, scale, mean, inv_std, scale_grad, bias_grad, count)     where dX is asked for

    `count` is that of the ChannelStats which made `mean`, so run this after `ReplaceForwardPass`; where the mean comes
    from elsewhere, it is the number of elements per channel of X.
    """

    def __init__(self, *, one_pass: bool = False) -> None:
        super().__init__()
        self._one_pass = one_pass

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        names, types = Names(model), Types(model)
        modified = False
        for site in find_sites(model):
            if isinstance(site, BackwardSite):
                _replace(site, names, types, self._one_pass)
                modified = True
        if modified:
            import_domain(model)
        return PassResult(model, modified)


def _replace(site: BackwardSite, names: Names, types: Types, one_pass: bool) -> None:
    splice = Splice(site.node, names, types)
    dtype = statistics_type(site.scale, types)
    vector = site.scale.shape
    scale = splice.cast(site.scale, dtype, "scale")
    mean = splice.cast(site.mean, dtype, "mean")
    inv_std = splice.cast(site.inv_std, dtype, "inv_std")
    sums = (("scale_grad", dtype, vector), ("bias_grad", dtype, vector))
    input_grad = ("dX", site.X.dtype, site.X.shape)
    dX = None
    if one_pass and site.dX is not None:
        dX, scale_grad, bias_grad = splice.channel_op(
            "BatchNormGrad", (site.dY, site.X, scale, mean, inv_std), (input_grad, *sums), axis=site.axis
        )
    else:
        scale_grad, bias_grad = splice.channel_op(
            "ChannelBackpropStats", (site.X, mean, inv_std, site.dY), sums, axis=site.axis
        )
        if site.dX is not None:
            (dX,) = splice.channel_op(
                "ChannelBackprop",
                (site.dY, site.X, scale, mean, inv_std, scale_grad, bias_grad, _count(site, splice)),
                (input_grad,),
                axis=site.axis,
            )
    splice.hand_over(site.scale_grad, scale_grad)
    splice.hand_over(site.bias_grad, bias_grad)
    if dX is not None:
        splice.hand_over(site.dX, dX)
    splice.commit()


def _count(site: BackwardSite, splice: Splice) -> ir.Value:
    producer = site.mean.producer()
    if producer is not None and (producer.domain, producer.op_type) == (DOMAIN, "ChannelStats"):
        return producer.outputs[2]
    scalar = (ir.DataType.INT64, ir.Shape([]))
    (elements,) = splice.add("Size", (site.X,), (("elements", *scalar),))
    (channels,) = splice.add("Size", (site.scale,), (("channels", *scalar),))
    (count,) = splice.add("Div", (elements, channels), (("count", *scalar),))
    return count
