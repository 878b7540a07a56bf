"""All data of the page as one JSON document: a model, its rewrite, its statistics and its check."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx

import onnx_cbp
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import InlineFunctionsPass, Site, find_sites
from onnx_cbp.graph_passes.core.batch_norms.naming import given_name
from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, InferenceSite, in_graph
from onnx_cbp.ir_models import ModelSource, read_model, to_ir
from onnx_cbp.report.checks import Checked, check_rewrite
from onnx_cbp.report.drawing import Rewrite
from onnx_cbp.report.layers import Part, layers_of
from onnx_cbp.report.statistics import Measured, as_forward, measured_by_result, statistics_of
from onnx_cbp.training.parameters import CheckpointParameters
from onnx_cbp.updating import Batch


def collect(
    model: ModelSource,
    batches: Iterable[Batch] | None = None,
    checkpoint: Any = None,
    check: bool = True,
    name: str | None = None,
) -> dict[str, Any]:
    """The document of a model; arguments and errors are those of `onnx_cbp.report.write_report`."""
    source = read_model(model)
    parameters = CheckpointParameters.of(checkpoint)
    measured = {} if batches is None else measured_by_result(source, batches, checkpoint)
    analysed = to_ir(source)
    InlineFunctionsPass()(analysed)
    sites = list(find_sites(analysed))
    layers = layers_of(sites, onnx_cbp.inspect(source))
    rewritten, failure = _rewritten(source, layers)
    pair = Rewrite(analysed, None if rewritten is None else to_ir(rewritten), sites)
    checked = _checked(source, rewritten, failure, check)
    return {
        "model": name or (Path(model).name if isinstance(model, str | Path) else "a model"),
        "version": onnx_cbp.__version__,
        "nodes": len(source.graph.node),
        "measured": batches is not None,
        "failure": failure,
        "check": checked.as_dict(),
        "layers": [_layer(parts, pair, parameters, measured, checked) for parts in layers],
    }


def _rewritten(source: onnx.ModelProto, layers: Sequence[Sequence[Part]]) -> tuple[onnx.ModelProto | None, str]:
    """The default result of `rewrite`, or the reason why there is none."""
    if not any(part.finding.rewritten for parts in layers for part in parts):
        return None, ""
    try:
        return onnx_cbp.rewrite(source), ""
    except OnnxCbpError as error:
        return None, str(error)


def _checked(source: onnx.ModelProto, rewritten: onnx.ModelProto | None, failure: str, check: bool) -> Checked:
    if failure:
        return Checked("not run", f"rewrite refuses the model: {failure}")
    if rewritten is None:
        return Checked("not run", "there is nothing to check: rewrite leaves the model as it is")
    return check_rewrite(source, rewritten) if check else Checked("not run", "check was switched off: --no-check")


def _layer(
    parts: Sequence[Part], pair: Rewrite, parameters: CheckpointParameters, measured: Measured, checked: Checked
) -> dict[str, Any]:
    first = parts[0]
    forward = as_forward(first.site)
    statistics = None if forward is None else statistics_of(forward, parameters, measured)
    return {
        "name": first.finding.module or given_name(first.site.node) or first.finding.node,
        "node": first.finding.node,
        "form": first.finding.form,
        "shape": "" if first.finding.shape == "?" else first.finding.shape,
        "channels": _channels(forward or first.site),
        "epsilon": _finite(getattr(forward, "epsilon", None)),
        "momentum": None if isinstance(forward, InferenceSite) else _finite(getattr(forward, "momentum", None)),
        "state": _state(parts),
        "parts": [_part(part, pair, number) for number, part in enumerate(parts)],
        "statistics": statistics if isinstance(statistics, dict) else None,
        "no_statistics": _no_statistics(statistics),
        "check": checked.of(_names(parts)),
    }


def _part(part: Part, pair: Rewrite, number: int) -> dict[str, Any]:
    before, after = pair.draw(part.site)
    gradient = number > 0 or isinstance(part.site, BackwardSite)
    return {
        "title": "Gradient" if gradient else "Forward",
        "node": part.finding.node,
        "form": part.finding.form,
        "explanation": part.finding.explanation,
        "before": before,
        "after": after,
    }


def _state(parts: Sequence[Part]) -> str:
    """What happens to a layer, in the words of `Finding.state`."""
    states = [part.finding.state for part in parts]
    return "rewritten" if "rewritten" in states else states[0]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _channels(site: Site) -> int | None:
    scale = getattr(site, "scale", None)
    size = None if scale is None or scale.shape is None or len(scale.shape) != 1 else scale.shape[0]
    return size if isinstance(size, int) else None


def _no_statistics(found: dict[str, Any] | str | None) -> str:
    if isinstance(found, str):
        return found
    return "" if found else "This batch norm has no running statistics."


def _names(parts: Sequence[Part]) -> set[str]:
    """The layer's own values: what it learns, keeps and returns."""
    names: set[str] = set()
    for part in parts:
        site = part.site
        for field in ("scale", "B", "running_mean", "running_var", "mean", "var", "updated_mean", "updated_var"):
            value = getattr(site, field, None)
            if value is not None and not (isinstance(site, BackwardSite) and field in ("mean", "var")):
                names.add(str(in_graph(value).name))
        if isinstance(site, BackwardSite):
            names |= {str(value.name) for value in (site.scale_grad, site.bias_grad) if value is not None}
        if isinstance(site, ForwardSite | InferenceSite):
            names.add(str(site.Y.name))
    return names
