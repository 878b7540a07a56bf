"""Sets the momentum of batch norms: how much of a running statistic a step keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.batch_norms.naming import choosing, given_name
from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, InferenceSite, Site, label
from onnx_cbp.graph_passes.dialects import is_cumulative, is_frozen_forward, is_rewritten_forward, rewritten_site
from onnx_cbp.graph_passes.rewriting.modes.freeze import Freezing

#: The average over all batches so far, like PyTorch's momentum=None: after n batches, a step keeps n / (n + 1).
CUMULATIVE = "cumulative"
_HINT = f"use a number from 0 to 1, the part that is kept (1 minus PyTorch's), or '{CUMULATIVE}'"


@dataclass(frozen=True)
class Momenta:
    """Which batch norms get another momentum.

    Attributes:
        kept: by pattern, as `choosing` reads patterns: the part that a step keeps (ONNX's momentum), or "cumulative".
            The first pattern that chooses a batch norm decides.
    """

    kept: Mapping[str, float | str]

    @classmethod
    def of(cls, switch: Any) -> Momenta:
        """Read the switch `momentum` of `rewrite`.

        Raises:
            OnnxCbpError: it is no valid value.
        """
        if switch is None:
            return cls({})
        given = dict(switch) if isinstance(switch, Mapping) else {"*": switch}
        for pattern, kept in given.items():
            if not (isinstance(pattern, str) and pattern):
                raise OnnxCbpError(
                    f"momentum: {pattern!r} is no name of batch norms: use names or patterns ('layer1*')"
                )
            if kept != CUMULATIVE and not _is_part(kept):
                raise OnnxCbpError(f"momentum: {kept!r} is none: {_HINT}")
        return cls({pattern: kept if kept == CUMULATIVE else float(kept) for pattern, kept in given.items()})

    def of_node(self, node: ir.Node) -> float | str | None:
        """The momentum that a batch norm gets; None if it keeps its own."""
        pattern = next(iter(choosing(self.kept, node)), None)
        return None if pattern is None else self.kept[pattern]

    def is_cumulative(self, node: ir.Node) -> bool:
        """Whether a batch norm gets the average over all batches."""
        return self.of_node(node) == CUMULATIVE

    def check(self, sites: Sequence[Site]) -> None:
        """Refuse patterns that choose no moving running statistics, and batch norms that cannot be changed.

        Raises:
            OnnxCbpError: see above.
        """
        forward = [site for site in sites if not isinstance(site, BackwardSite)]
        for pattern in self.kept:
            chosen = [site for site in forward if choosing((pattern,), site.node)]
            if any(_moves(site) for site in chosen):
                continue
            if not chosen:
                raise OnnxCbpError(
                    f"momentum: '{pattern}' chooses no batch norm of the model; `onnx-cbp inspect` lists their names"
                )
            raise OnnxCbpError(
                f"momentum: '{pattern}' chooses no batch norm that moves running statistics: "
                f"'{label(chosen[0].node)}' ({chosen[0].form}) has none or is frozen{_way_out(chosen[0])}"
            )
        for site in forward:
            kept = self.of_node(site.node)
            if kept is not None and is_rewritten_forward(site.node) and not isinstance(site, ForwardSite):
                was = is_cumulative(site.node)
                if was != (kept == CUMULATIVE) and _moves(site):
                    how = "with" if was else "without"
                    raise OnnxCbpError(
                        f"node '{label(site.node)}' ({site.form}) cannot get another momentum: it was rewritten {how} "
                        "the cumulative average: start from the original model"
                    )


class SetMomentumPass(InPlacePass):
    """Every batch norm that `momenta` chooses with a number gets it as its momentum, rewritten or not."""

    def __init__(self, momenta: Momenta) -> None:
        super().__init__()
        self._momenta = momenta

    def call(self, model: ir.Model) -> PassResult:
        """Set in place."""
        modified = False
        for site in find_sites(model) if self._momenta.kept else ():
            kept = self._momenta.of_node(site.node)
            if isinstance(kept, float) and _moves(site):
                for node in _updating(site):
                    old = node.attributes.get("momentum")
                    new = ir.AttrFloat32("momentum", kept)
                    modified |= old is None or old.as_float() != new.as_float()
                    node.attributes["momentum"] = new
        return PassResult(model, modified)


_WAY = f"momentum=0.9 or momentum='{CUMULATIVE}' (--momentum)"
_EXTREMES = {
    1.0: f"no step moves the running statistics, so evaluation takes the initial ones; {_WAY} moves them",
    0.0: f"each step replaces the running statistics by those of its batch; {_WAY} averages them",
}


def stuck(sites: Sequence[Site], freezing: Freezing, momenta: Momenta) -> Iterator[str]:
    """Warnings about batch norms whose own momentum never moves the statistics, or keeps nothing of them."""
    own = [
        site
        for site in sites
        if isinstance(site, ForwardSite) and _moves(site) and not freezing.chooses(site)
        if momenta.of_node(site.node) is None  # or somebody chose it
    ]
    for momentum, meaning in _EXTREMES.items():
        names = [f"'{given_name(site.node)}'" for site in own if site.momentum == momentum]
        if names:
            yield f"momentum {momentum:g} of {', '.join(names)}: {meaning}"


def extreme(momentum: float) -> str:
    """A clause on what a momentum of 0 or 1 does; "" for any other."""
    meaning = _EXTREMES.get(momentum)
    return "" if meaning is None else f"momentum is {momentum:g}: {meaning}"


def _is_part(kept: Any) -> bool:
    """Whether it is a number from 0 to 1."""
    try:
        return not isinstance(kept, bool | str) and math.isfinite(kept) and 0 <= kept <= 1
    except TypeError:
        return False


def _moves(site: Site) -> bool:
    """Whether it is a batch norm that moves running statistics."""
    if isinstance(site, ForwardSite):
        return site.running_mean is not None and site.running_var is not None
    return (
        is_rewritten_forward(site.node) and not is_frozen_forward(site.node) and rewritten_site(site.node) is not None
    )


def _updating(site: Site) -> list[ir.Node]:
    """The nodes whose momentum matters."""
    read = None if isinstance(site, ForwardSite) else rewritten_site(site.node)
    if read is None or "momentum" in site.node.attributes:
        return [site.node]
    steps = [value.producer() for value in (read[0].updated_mean, read[0].updated_var) if value is not None]
    return [step for step in steps if step is not None]


def _way_out(site: Site) -> str:
    return f"; --train '{label(site.node)}' makes it train" if isinstance(site, InferenceSite) else ""
