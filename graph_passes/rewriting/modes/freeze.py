"""Freezes batch norms: they normalise with their running statistics, which no longer change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.batch_norms.naming import choosing
from onnx_cbp.graph_passes.core.scopes import import_domain
from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, InferenceSite, Site, label
from onnx_cbp.graph_passes.core.splice import Names, Splice, is_used, origin, statistics_type
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import is_frozen_forward, is_rewritten_forward
from onnx_cbp.graph_passes.rewriting.replace_forward import reciprocal_std


@dataclass(frozen=True)
class Freezing:
    """Which batch norms are frozen.

    Attributes:
        patterns: for batch norms in the forward pass, as `choosing` reads them.
    """

    patterns: tuple[str, ...] = ()

    @classmethod
    def of(cls, switch: str | Sequence[str]) -> Freezing:
        """Read the switch `freeze` of `rewrite`.

        Raises:
            OnnxCbpError: it is no valid value.
        """
        patterns = (switch,) if isinstance(switch, str) else tuple(switch)
        for pattern in patterns:
            if not isinstance(pattern, str) or not pattern:
                raise OnnxCbpError(f"freeze: {pattern!r} is no name of batch norms: use names or patterns ('bn*')")
        return cls(patterns)

    def chooses(self, site: Site) -> bool:
        """Whether a batch norm is frozen; a gradient follows the batch norm that computed its mean."""
        node = origin(site.mean) if isinstance(site, BackwardSite) else site.node
        return node is not None and bool(choosing(self.patterns, node))

    def check(self, sites: Iterable[Site]) -> None:
        """Refuse a model in which a chosen batch norm would silently train.

        Raises:
            OnnxCbpError: one cannot be frozen, or a pattern chooses none.
        """
        matched: set[str] = set()
        for site in sites:
            if _is_gradient(site) or not self.chooses(site):
                continue
            _refuse_what_cannot_be_frozen(site)
            matched.update(choosing(self.patterns, site.node))
        for pattern in self.patterns:
            if pattern not in matched:
                raise OnnxCbpError(
                    f"freeze: '{pattern}' chooses no batch norm of the model; `onnx-cbp inspect` lists their names"
                )


def _is_gradient(site: Site) -> bool:
    """Whether it is a gradient, rewritten or not; gradients follow their batch norms."""
    return isinstance(site, BackwardSite) or (site.node.domain == DOMAIN and not is_rewritten_forward(site.node))


def _refuse_what_cannot_be_frozen(site: Site) -> None:
    reason = _obstacle(site)
    if reason is not None:
        raise OnnxCbpError(f"node '{label(site.node)}' ({site.form}) cannot be frozen: {reason}")


def _obstacle(site: Site) -> str | None:
    """Why a chosen batch norm of the forward pass cannot be frozen; None if it can, or is already."""
    if isinstance(site, ForwardSite):
        missing = site.running_mean is None or site.running_var is None
        return "it has no running statistics to normalise with" if missing else None
    if isinstance(site, InferenceSite) or is_frozen_forward(site.node):
        return None
    assert not isinstance(site, BackwardSite)
    return f"{site.reason}; start from the original model"


class FreezePass(InPlacePass):
    """Every `ForwardSite` that `freezing` chooses uses its running statistics as constants, and so does its gradient.

        Y = ChannelNormalize(X, scale, B, running_mean, running_var)
        dX = ChannelNormalize(dY, scale, 0, 0, running_var)               which is scale * inv_std * dY
        scale_grad, bias_grad = ChannelBackpropStats(X, running_mean, inv_std, dY)

    with inv_std = 1 / sqrt(running_var + epsilon), and each gradient only if something reads it. Nothing updates or
    writes the running statistics. Readers of updated or saved statistics get the unchanged running ones.

    Raises:
        OnnxCbpError: one line: a chosen batch norm has no running statistics.

    Run it before `ReplaceForwardPass` and `ReplaceBackwardPass`, which then only find the others.
    """

    def __init__(self, freezing: Freezing) -> None:
        super().__init__()
        self._freezing = freezing

    def call(self, model: ir.Model) -> PassResult:
        """Freeze in place."""
        if not self._freezing.patterns:
            return PassResult(model, modified=False)
        names, types = Names(model), Types(model)
        chosen = [site for site in find_sites(model) if isinstance(site, ForwardSite) and self._freezing.chooses(site)]
        for one in chosen:  # it may be found only now, when passes before have made its type known
            _refuse_what_cannot_be_frozen(one)
        forward = {site.node: site for site in chosen}
        # Gradients first: then nothing reads what was saved for them. Each site is read after the change before it.
        for site in find_sites(model):
            maker = origin(site.mean) if isinstance(site, BackwardSite) else None
            if isinstance(site, BackwardSite) and maker in forward:
                _freeze_backward(site, forward[maker], names, types)
        for site in find_sites(model):
            if site.node in forward and isinstance(site, ForwardSite):
                _freeze_forward(site, names, types)
        if forward:
            import_domain(model)
        return PassResult(model, modified=bool(forward))


def _statistics(site: ForwardSite, splice: Splice, dtype: ir.DataType) -> tuple[ir.Value, ir.Value]:
    """The running mean and variance in the type of the statistics."""
    assert site.running_mean is not None
    assert site.running_var is not None
    return splice.cast(site.running_mean, dtype, "running_mean"), splice.cast(site.running_var, dtype, "running_var")


def _freeze_forward(site: ForwardSite, names: Names, types: Types) -> None:
    splice = Splice(site.node, names, types)
    dtype = statistics_type(site.scale, types)
    mean, var = _statistics(site, splice, dtype)
    (Y,) = splice.channel_op(
        "ChannelNormalize",
        (site.X, splice.cast(site.scale, dtype, "scale"), splice.cast(site.B, dtype, "B"), mean, var),
        (("Y", site.X.dtype, site.X.shape),),
        axis=site.axis,
        epsilon=site.epsilon,
    )
    splice.hand_over(site.Y, Y)
    for old, new in (
        (site.updated_mean, mean),
        (site.updated_var, var),
        (site.saved_mean, mean),
        (site.saved_var, var),
    ):
        if is_used(old):
            (same,) = splice.add("Identity", (new,), (("running", dtype, new.shape),))
            splice.hand_over(old, same)
    if is_used(site.saved_inv_std):
        splice.hand_over(site.saved_inv_std, reciprocal_std(splice, var, dtype, site.epsilon))
    splice.commit()


def _freeze_backward(site: BackwardSite, forward: ForwardSite, names: Names, types: Types) -> None:
    splice = Splice(site.node, names, types)
    mean, var = _statistics(forward, splice, statistics_type(site.scale, types))
    frozen_gradients(site, mean, var, forward.epsilon, splice, types)
    splice.commit()


def frozen_gradients(
    site: BackwardSite, mean: ir.Value, var: ir.Value, epsilon: float, splice: Splice, types: Types
) -> None:
    """Append those gradients of a batch norm with constant statistics that something reads, in the statistics' type."""
    dtype = statistics_type(site.scale, types)
    if is_used(site.scale_grad) or is_used(site.bias_grad):
        scale_grad, bias_grad = splice.channel_op(
            "ChannelBackpropStats",
            (site.X, mean, reciprocal_std(splice, var, dtype, epsilon), site.dY),
            (("scale_grad", dtype, site.scale.shape), ("bias_grad", dtype, site.scale.shape)),
            axis=site.axis,
        )
        splice.hand_over(site.scale_grad, scale_grad)
        splice.hand_over(site.bias_grad, bias_grad)
    if is_used(site.dX):
        zeros = _zeros_like(splice, site.scale, dtype)
        (dX,) = splice.channel_op(
            "ChannelNormalize",
            (site.dY, splice.cast(site.scale, dtype, "scale"), zeros, zeros, var),
            (("dX", site.X.dtype, site.X.shape),),
            axis=site.axis,
            epsilon=epsilon,
        )
        splice.hand_over(site.dX, dX)


def _zeros_like(splice: Splice, scale: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Append a vector of zeros, one per channel."""
    (size,) = splice.add("Shape", (scale,), (("channels", ir.DataType.INT64, ir.Shape([1])),))
    zero = ir.tensor([0.0], dtype=dtype)
    return splice.add("ConstantOfShape", (size,), (("zeros", dtype, scale.shape),), {"value": zero})[0]
