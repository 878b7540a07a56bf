"""The batch norms of a model as a user counts them: a layer forward, and its gradient where the graph has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.graph_passes import BackwardSite, LeftAlone, Site
from onnx_cbp.rewriting import Finding


@dataclass(frozen=True)
class Part:
    """A batch norm node, forward or backward: where it is, and what `inspect` says of it."""

    site: Site
    finding: Finding


def layers_of(sites: Sequence[Site], findings: Sequence[Finding]) -> list[list[Part]]:
    """The layers in the order of the graph, the gradient of each behind its forward node.

    A gradient is that of the batch norm whose saved statistics it reads. One whose forward node is not found is a
    layer by itself.
    """
    parts = [Part(site, finding) for site, finding in zip(sites, findings, strict=True)]
    home: dict[ir.Node, list[Part]] = {}
    layers: list[list[Part]] = []
    for part in parts:
        node = part.site.node
        saved_by = None
        if _is_gradient(part.site):
            saved_by = next((maker for maker in map(_saver, node.inputs) if maker in home), None)
        if saved_by is None:
            layers.append([part])
        else:
            home[saved_by].append(part)
        home[node] = layers[-1] if saved_by is None else home[saved_by]
    return layers


def _is_gradient(site: Site) -> bool:
    """Whether a batch norm is a gradient; one that is rewritten already is told by the name of its op."""
    return isinstance(site, BackwardSite) or (isinstance(site, LeftAlone) and site.node.op_type.endswith("Grad"))


def _saver(value: ir.Value | None) -> ir.Node | None:
    """The node that made a value as another result than its first, which is Y."""
    node = None if value is None else value.producer()
    return node if node is not None and value is not node.outputs[0] else None
