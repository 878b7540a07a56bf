"""The batch norms of a model as layers: each forward node with its gradient, if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.graph_passes import Site
from onnx_cbp.graph_passes.core.batch_norms.layers import forwards
from onnx_cbp.rewriting import Finding


@dataclass(frozen=True)
class Part:
    """A batch norm node, forward or backward, with its place and the finding of `inspect`."""

    site: Site
    finding: Finding


def layers_of(sites: Sequence[Site], findings: Sequence[Finding]) -> list[list[Part]]:
    """The layers in the order of the graph, each gradient after its forward node.

    A gradient whose forward node is not found is a separate layer.
    """
    of = forwards(sites)
    homes: dict[ir.Node, list[Part]] = {}
    layers: list[list[Part]] = []
    for site, finding in zip(sites, findings, strict=True):
        home = homes.get(of[site.node]) if site.node in of else None
        if home is None:
            home = homes[site.node] = []
            layers.append(home)
        home.append(Part(site, finding))
    return layers
