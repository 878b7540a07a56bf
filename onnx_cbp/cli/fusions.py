"""The table of fusions that `check` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnx_cbp.checking import Difference, FusionEffect, FusionEffects
from onnx_cbp.cli.text import number

_KINDS = {"loss": "loss", "output": "outputs", "gradient": "gradients", "running statistic": "running statistics"}

FUSIONS_TITLE = (
    "MODEL rewritten with no fusion, then with one more of OUT's on in each row: largest relative difference to MODEL, "
    "and to the row above:"
)


def fusions_columns(effects: FusionEffects) -> list[str]:
    """Headings of `fusions_rows`; all columns but the first and the last have numbers."""
    return ["fusion on", *(_KINDS[kind] for kind in _kinds(effects)), "to the row above", ""]


def fusions_rows(effects: FusionEffects, rtol: float | None) -> list[list[str]]:
    """One row per rewrite."""
    rows = []
    for effect in effects.rows:
        largest = largest_by_kind(effect.differences)
        # A rewrite with no fusion has no row above.
        own = number(max(largest_by_kind(effect.by_itself).values(), default=0.0)) if effect.fusion else "-"
        figures = [number(largest.get(kind, 0.0)) for kind in _kinds(effects)]
        rows.append([_name(effect), *figures, own, "ok" if _within(effect, rtol) else "too far apart"])
    return rows


def fusions_document(effects: FusionEffects, rtol: float | None) -> list[dict[str, Any]]:
    """The rows as JSON-ready values."""
    return [
        {
            "fusion": effect.fusion.name if effect.fusion else None,
            "within_tolerance": _within(effect, rtol),
            "to_original": _json_ready(largest_by_kind(effect.differences)),
            "by_itself": _json_ready(largest_by_kind(effect.by_itself)) if effect.fusion else None,
        }
        for effect in effects.rows
    ]


def largest_by_kind(differences: Sequence[Difference]) -> dict[str, float]:
    """The largest relative difference of the results of each kind."""
    largest: dict[str, float] = {}
    for d in differences:
        largest[d.kind] = max(largest.get(d.kind, 0.0), d.relative)
    return largest


def _kinds(effects: FusionEffects) -> list[str]:
    found = {d.kind for effect in effects.rows for d in effect.differences}
    return [kind for kind in _KINDS if kind in found]


def _name(effect: FusionEffect) -> str:
    return f"+ {effect.fusion.name}" if effect.fusion else "none"


def _within(effect: FusionEffect, rtol: float | None) -> bool:
    return all(d.within(rtol) for d in effect.differences)


def _json_ready(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
