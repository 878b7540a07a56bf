"""Matches gradients with their batch norms, by the X and the scale that both read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, Rewritten, Site


def forwards(sites: Iterable[Site]) -> Mapping[ir.Node, ir.Node]:
    """The forward node of each gradient, if it is known."""
    made: dict[tuple[ir.Value | None, ir.Value | None], ir.Node] = {}
    found: dict[ir.Node, ir.Node] = {}
    for site in sites:
        if isinstance(site, ForwardSite):
            made[site.X, site.scale] = site.node
        elif isinstance(site, BackwardSite):
            if (node := made.get((site.X, site.scale))) is not None:
                found[site.node] = node
        elif isinstance(site, Rewritten):
            # The gradients read X and the scale as neighbouring inputs, as the forward ops do; no two layers read the
            # same pair.
            of = next((made[pair] for pair in pairwise(site.node.inputs) if pair in made), None)
            if of is not None:
                found[site.node] = of
            elif len(site.node.inputs) > 1:
                made[site.node.inputs[0], site.node.inputs[1]] = site.node
    return found
