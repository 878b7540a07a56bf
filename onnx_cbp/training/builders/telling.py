"""Warns of batch norms that do not train, where a caller may expect it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from onnx_cbp.graph_passes import ForwardSite, InferenceSite, Site, label
from onnx_cbp.graph_passes.core.sites import Folded
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
