"""Replaces the gradients of batch norms by our ops."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.scopes import import_domain
from onnx_cbp.graph_passes.core.sites import BackwardSite
from onnx_cbp.graph_passes.core.splice import Names, Splice, origin, statistics_type
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.distributing.synchronize import reduce_sums


class ReplaceBackwardPass(InPlacePass):
    """Replaces every `BackwardSite` by our ops.

    With `one_pass`, for replicas that do not synchronise:

        dX, scale_grad, bias_grad = BatchNormGrad(dY, X, scale, mean, inv_std)

    Without it, or if dX is not wanted:

        scale_grad, bias_grad = ChannelBackpropStats(X, mean, inv_std, dY)
        dX = ChannelBackprop(dY, X, scale, mean, inv_std, scale_grad, bias_grad, count)     if dX is wanted

    If `mean` is that of a synchronised batch norm, the sums for dX are those of the group's whole batch. scale_grad and
    bias_grad stay those of this replica; they are summed later with all other gradients of parameters:

        dX = ChannelBackprop(dY, X, scale, mean, inv_std, AllReduce(scale_grad, bias_grad), count)

    `count` comes from the ChannelStats or ChannelStatsMerge that computed `mean`, so run this after
    `ReplaceForwardPass`. If the mean comes from elsewhere, `count` is the number of elements per channel of X. If the
    forward batch norm was replaced in steps, so is its gradient.
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
    mean = splice.cast(_as_made(site.mean, dtype), dtype, "mean")
    inv_std = splice.cast(_as_made(site.inv_std, dtype), dtype, "inv_std")
    sums = (("scale_grad", dtype, vector), ("bias_grad", dtype, vector))
    input_grad = ("dX", site.X.dtype, site.X.shape)
    dX = None
    if one_pass and site.dX is not None and _counted(site) is None:
        dX, scale_grad, bias_grad = splice.channel_op(
            "BatchNormGrad", (site.dY, site.X, scale, mean, inv_std), (input_grad, *sums), axis=site.axis
        )
    else:
        scale_grad, bias_grad = splice.channel_op(
            "ChannelBackpropStats", (site.X, mean, inv_std, site.dY), sums, axis=site.axis
        )
        if site.dX is not None:
            whole = reduce_sums(splice, site.mean, (scale_grad, bias_grad))
            (dX,) = splice.channel_op(
                "ChannelBackprop",
                (site.dY, site.X, scale, mean, inv_std, *whole, _count(site, splice)),
                (input_grad,),
                axis=site.axis,
            )
    splice.hand_over(site.scale_grad, scale_grad, types.of(site.scale))
    splice.hand_over(site.bias_grad, bias_grad, types.of(site.scale))
    if dX is not None:
        splice.hand_over(site.dX, dX)
    splice.commit()


def _as_made(saved: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A saved statistic before it was cast to another type, if it had `dtype` before.

    A model of 16-bit types saves statistics in 16 bits, but our forward op has them in full precision.
    """
    producer = saved.producer()
    if producer is None or (producer.domain, producer.op_type) != ("", "Cast"):
        return saved
    made = producer.inputs[0]
    return made if made is not None and made.dtype == dtype else saved


def _counted(site: BackwardSite) -> ir.Value | None:
    """The count that belongs to the mean, if the batch norm was replaced in steps."""
    producer = origin(site.mean)
    if producer is None or producer.domain != DOMAIN or producer.op_type not in ("ChannelStats", "ChannelStatsMerge"):
        return None
    return producer.outputs[2]


def _count(site: BackwardSite, splice: Splice) -> ir.Value:
    counted = _counted(site)
    if counted is not None:
        return counted
    scalar = (ir.DataType.INT64, ir.Shape([]))
    (elements,) = splice.add("Size", (site.X,), (("elements", *scalar),))
    (channels,) = splice.add("Size", (site.scale,), (("channels", *scalar),))
    (count,) = splice.add("Div", (elements, channels), (("count", *scalar),))
    return count
