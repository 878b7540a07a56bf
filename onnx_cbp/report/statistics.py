"""Histograms of a batch norm's running statistics, and of those measured from data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes import LeftAlone, Site
from onnx_cbp.graph_passes.core.sites import ForwardSite, InferenceSite, in_graph
from onnx_cbp.graph_passes.dialects import is_frozen_forward, is_rewritten_forward, rewritten_site
from onnx_cbp.graph_passes.updating.batch_statistics import running_statistics
from onnx_cbp.ir_models import ModelSource
from onnx_cbp.training.parameters import CheckpointParameters
from onnx_cbp.updating import Batch, measure

_BINS = 24
#: If the ratio of the largest to the smallest value is above this, bins have equal factors.
_WIDE = 50.0

#: By the name of Y: the mean and the variance, float64 [C] each.
Measured = dict[str, tuple[np.ndarray, np.ndarray]]


def measured_by_result(model: ModelSource, batches: Iterable[Batch], checkpoint: Any) -> Measured:
    """The running statistics that `update_bn` would give each batch norm, by the name of its Y."""
    found = measure(model, batches, checkpoint=checkpoint)
    return {str(layer.site.Y.name): (mean, var) for layer, mean, var in found}


def as_forward(site: Site) -> ForwardSite | InferenceSite | None:
    """The forward batch norm of a site, rewritten or not; None if the site is a gradient or is not understood."""
    if isinstance(site, ForwardSite | InferenceSite):
        return site
    if isinstance(site, LeftAlone) and is_rewritten_forward(site.node) and not is_frozen_forward(site.node):
        read = rewritten_site(site.node)
        return None if read is None else read[0]
    return None


def statistics_of(
    site: ForwardSite | InferenceSite, parameters: CheckpointParameters, measured: Measured
) -> dict[str, Any] | str | None:
    """Histograms over the channels, and how far the two are apart.

    Args:
        site: a forward batch norm.
        parameters: those of a checkpoint; empty if there is none.
        measured: the statistics of the data.

    Returns:
        JSON-ready values; or a sentence why there are none; None if the batch norm has no running statistics.
    """
    names = running_statistics(site)
    if names is None:
        return None
    mean, var = (_values(in_graph(value), parameters) for value in names)
    fresh = measured.get(str(site.Y.name))
    if mean is None or var is None:
        if fresh is None:
            return "The running statistics are not in the model: --checkpoint names the file that has them."
        return {"mean": _bins(None, fresh[0]), "var": _bins(None, fresh[1])}
    result: dict[str, Any] = {"mean": _bins(mean, None), "var": _bins(var, None)}
    if fresh is not None and fresh[0].size == mean.size:
        result = {"mean": _bins(mean, fresh[0]), "var": _bins(var, fresh[1])}
        result |= _apart(mean, var, *fresh, site.epsilon)
    return result


def _values(value: ir.Value, parameters: CheckpointParameters) -> np.ndarray | None:
    if value.name in parameters:
        return parameters.get(str(value.name)).astype(np.float64).reshape(-1)
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy().astype(np.float64).reshape(-1)


def _apart(mean: np.ndarray, var: np.ndarray, fresh: np.ndarray, fresh_var: np.ndarray, epsilon: float) -> dict:
    """The largest distance of the means, in standard deviations, and the largest factor between the variances."""
    std = np.sqrt(fresh_var + epsilon)
    factor = np.abs(np.log((var + epsilon) / (fresh_var + epsilon)))
    off, wide = np.abs(mean - fresh) / std, np.exp(factor)
    if not (np.isfinite(off).all() and np.isfinite(wide).all()):
        return {}
    return {"mean_off": float(off.max(initial=0.0)), "var_off": float(wide.max(initial=1.0))}


def _bins(running: np.ndarray | None, fresh: np.ndarray | None) -> dict[str, Any]:
    """Counts of both in the same bins; numbers that are not finite are counted separately."""
    given = [values for values in (running, fresh) if values is not None]
    everything = np.concatenate(given)
    finite = everything[np.isfinite(everything)]
    if not finite.size:
        return {"edges": [], "strange": int(everything.size)}
    low, high = float(finite.min()), float(finite.max())
    logarithmic = low > 0 and high / low > _WIDE
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.geomspace(low, high, _BINS + 1) if logarithmic else np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = low, high  # rounding must not leave out any value
    return {
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "logarithmic": logarithmic,
        "running": _counts(running, edges),
        "fresh": _counts(fresh, edges),
        "strange": int(everything.size - finite.size),
    }


def _counts(values: np.ndarray | None, edges: np.ndarray) -> list[int] | None:
    return None if values is None else np.histogram(values[np.isfinite(values)], edges)[0].tolist()
