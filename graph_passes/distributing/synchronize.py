"""Chooses the batch norms that are synchronised, and writes their collectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.batch_norms.naming import choosing, gather_of, gathered
from onnx_cbp.graph_passes.core.sites import (
    BackwardSite,
    Entangled,
    Folded,
    ForwardSite,
    InferenceSite,
    LeftAlone,
    Site,
    label,
)
from onnx_cbp.graph_passes.core.splice import Splice, origin
from onnx_cbp.graph_passes.dialects import is_frozen_forward, is_gradient_accumulator, is_rewritten_forward

WORLD = "world"


@dataclass(frozen=True)
class Synchronization:
    """Which batch norms are synchronised, and among which replicas.

    Attributes:
        groups: group by pattern, as `choosing` reads patterns. The first pattern that chooses a batch norm decides; a
            batch norm that no pattern chooses is not synchronised.
    """

    groups: Mapping[str, str]

    @classmethod
    def of(cls, switch: bool | str | Mapping[str, str]) -> Synchronization:
        """Read the switch `synchronize` of `rewrite`.

        Raises:
            OnnxCbpError: it is no valid value.
        """
        groups: Mapping[str, str]
        if isinstance(switch, Mapping):
            groups = dict(switch)
        elif isinstance(switch, str):
            groups = {"*": switch}
        else:
            groups = {"*": WORLD} if switch else {}
        for pattern, group in groups.items():
            if not (isinstance(pattern, str) and pattern and isinstance(group, str) and group):
                raise OnnxCbpError(
                    f"synchronize: {pattern!r}: {group!r} is no name of batch norms and of a group: use True, a group "
                    "('world', 'size:4', or one that initialize() is given), or groups by names of batch norms"
                )
            size = group.removeprefix("size:")
            if group != size and not (size.isdecimal() and int(size)):
                raise OnnxCbpError(f"synchronize: the group '{group}' needs a number of replicas, such as 'size:4'")
        return cls(groups)

    def __bool__(self) -> bool:
        return bool(self.groups)

    @property
    def covers_all(self) -> bool:
        """Whether every batch norm is to be synchronised."""
        return "*" in self.groups

    def group(self, site: Site) -> str | None:
        """The group in which a batch norm is synchronised; None if it is not."""
        pattern = self._pattern(site)
        return None if pattern is None else self.groups[pattern]

    def check(self, sites: list[Site]) -> None:
        """Refuse a model in which a chosen batch norm would silently train without synchronisation.

        Raises:
            OnnxCbpError: one cannot be synchronised, a pattern chooses none, or all that are chosen are in inference
                form, as exporters write batch norms that should train.
        """
        if not self:
            return
        batch_norms = {site.node for site in sites if not isinstance(site, BackwardSite)}
        for site in sites:
            group = self.group(site)
            reason = None if group is None else _obstacle(site, group, batch_norms)
            if reason is not None:
                raise OnnxCbpError(f"node '{label(site.node)}' ({site.form}) cannot be synchronized: {reason}")
        forward = [site for site in sites if not isinstance(site, BackwardSite) and self.group(site) is not None]
        frozen = [site for site in forward if isinstance(site, InferenceSite) and site.node.domain == ""]
        # In a training graph, the gradient builder has seen them, and they are frozen on purpose.
        if frozen and len(frozen) == len(forward) and not any(map(is_gradient_accumulator, frozen[0].node.graph or ())):
            raise OnnxCbpError(_in_inference_form(forward))
        matched = {self._pattern(site) for site in sites if not isinstance(site, BackwardSite)}
        for pattern in self.groups:
            if pattern not in matched and pattern != "*":
                raise OnnxCbpError(
                    f"synchronize: '{pattern}' chooses no batch norm of the model; `onnx-cbp inspect` lists their names"
                )

    def _pattern(self, site: Site) -> str | None:
        return next(iter(choosing(self.groups, site.node)), None)


def _in_inference_form(sites: Sequence[Site]) -> str:
    name = label(sites[0].node)
    more = f", and {len(sites) - 1} more," if len(sites) > 1 else ""
    return (
        f"node '{name}' ({sites[0].form}){more} cannot be synchronized: in inference form nothing is taken of the "
        "batch; --train (train='*') makes batch norms train that an exporter wrote so"
    )


def _obstacle(site: Site, group: str, batch_norms: set[ir.Node]) -> str | None:
    """Why a chosen batch norm, forward or backward, cannot be synchronised; None if it can, is, or need not be."""
    if isinstance(site, ForwardSite | Folded):
        return None
    if isinstance(site, BackwardSite):
        maker = origin(site.mean)
        # A backward site follows the batch norm that computed its mean, which has the count of the whole batch.
        if site.dX is None or maker in batch_norms or (maker is not None and maker.domain == DOMAIN):
            return None
        return f"its mean '{site.mean.name}' is not made by a batch norm of this graph"
    if is_frozen_forward(site.node) or (isinstance(site, Entangled) and not site.trains):
        return None  # it has nothing to synchronise
    if not is_rewritten_forward(site.node):
        return site.reason if isinstance(site, LeftAlone) and site.node.domain != DOMAIN else None
    have = group_of(site.node)
    if have == group:
        return None
    how = "without it" if have is None else f"for group '{have}', not '{group}'"
    return f"it was rewritten {how}: start from the original model"


def group_of(node: ir.Node) -> str | None:
    """The group in which the statistics of a ChannelNormalize were synchronised; None if they were not."""
    gather = gather_of(node)
    return None if gather is None else gather.attributes["group"].as_string()


def merge_statistics(splice: Splice, statistics: tuple[ir.Value, ...], group: str, layer: str) -> tuple[ir.Value, ...]:
    """Append AllGather and ChannelStatsMerge: they turn this replica's (mean, var, count) into those of the group."""
    mean, var, count = statistics
    every = None if mean.shape is None else ir.Shape((None, *mean.shape))
    gathered = splice.channel_op(
        "AllGather",
        statistics,
        (
            ("gathered_mean", mean.dtype, every),
            ("gathered_var", var.dtype, every),
            ("gathered_count", count.dtype, ir.Shape((None,))),
        ),
        group=group,
        layer=layer,
    )
    return splice.channel_op(
        "ChannelStatsMerge",
        gathered,
        (("mean", mean.dtype, mean.shape), ("var", var.dtype, var.shape), ("count", count.dtype, count.shape)),
    )


def reduce_sums(splice: Splice, mean: ir.Value, sums: tuple[ir.Value, ...]) -> tuple[ir.Value, ...]:
    """Append the AllReduce of (scale_grad, bias_grad) if the mean is synchronised; otherwise return `sums`."""
    gather = gathered(mean)
    if gather is None:
        return sums
    return splice.channel_op(
        "AllReduce",
        sums,
        tuple(
            (f"reduced_{name}", value.dtype, value.shape)
            for name, value in zip(("scale_grad", "bias_grad"), sums, strict=True)
        ),
        group=gather.attributes["group"].as_string(),
        reduction="sum",
        layer=gather.attributes["layer"].as_string(),
    )
