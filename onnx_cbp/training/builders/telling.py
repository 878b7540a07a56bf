"""Warns of what trains, or does not, where a caller may expect otherwise."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx_ir as ir

from onnx_cbp.graph_passes import ForwardSite, InferenceSite, Site, label
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.sites import Folded
from onnx_cbp.graph_passes.core.stopped import lost_stops, stops_gradients
from onnx_cbp.training.arguments import listed

_log = logging.getLogger("onnx_cbp")


def tell_what_does_not_train(sites: Sequence[Site], chosen: Sequence[str] | None) -> None:
    """Warn of batch norms that a caller may take for trained ones."""
    folded = [label(site.node) for site in sites if isinstance(site, Folded)]
    if folded:
        _log.warning(
            "%d batch norm%s that the exporter folded into the layer in front, %s, cannot train: "
            "torch.onnx.export(..., dynamo=True, optimize=False) keeps them",
            len(folded),
            "s" if len(folded) > 1 else "",
            listed(folded),
        )
    inference = [label(site.node) for site in sites if isinstance(site, InferenceSite)]
    # Where an exporter keeps the mode of each batch norm, some train, and the others are meant to be frozen.
    if inference and chosen is None and not any(isinstance(site, ForwardSite) for site in sites):
        _log.warning(
            "%d batch norm%s in inference form, %s, %s frozen: train_batch_norms='*' lets them train, "
            "train_batch_norms=() says that they are meant to be frozen",
            len(inference),
            "s" if len(inference) > 1 else "",
            listed(inference),
            "stay" if len(inference) > 1 else "stays",
        )


def tell_stops(model: ir.Model, *, are_kept: bool) -> None:
    """Warn where the module stops gradients, and they pass nevertheless.

    Args:
        model: of PyTorch's default exporter; others record nothing.
        are_kept: whether the builder stops them where the exporter left a copy.
    """
    nodes = list(all_nodes(model))
    lost = [label(node) for node in lost_stops(nodes).values()]
    if lost:
        _log.warning(
            "gradients pass where the module calls detach(), before %s: the exporter's optimizer removed it, "
            "torch.onnx.export(..., dynamo=True, optimize=False) keeps it",
            listed(lost),
        )
    copies = [label(node) for node in nodes if stops_gradients(node)]
    if copies and not are_kept:
        _log.warning(
            "gradients pass where the module calls detach(), %s: builder='onnx_cbp' stops them there", listed(copies)
        )
