"""Runs `check` on a model and its rewrite, for the page."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import onnx

from onnx_cbp.checking import Difference, FusionEffects, compare_fusions
from onnx_cbp.errors import OnnxCbpError


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Attributes:
        state: "within", "apart", or "not run".
        line: a sentence about it.
        differences: of all results.
        effects: of the fusions.
    """

    state: str
    line: str
    differences: list[Difference] = field(default_factory=list)
    effects: FusionEffects = field(default_factory=lambda: FusionEffects([]))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        flags = [d for d in self.differences if d.dtype == "bool" and d.within()]
        shown = sorted((d for d in self.differences if d not in flags), key=lambda d: (d.within(), -d.relative))
        return {
            "state": self.state,
            "line": self.line,
            "differences": [_row(d) for d in shown],
            "fusions": [_effect(effect) for effect in self.effects.rows],
        }

    def of(self, names: Collection[str]) -> list[dict[str, Any]]:
        """The results with these names, or those of their gradients."""
        grown = {name + ending for name in names for ending in ("", "_grad", "_grad.accumulation.buffer", "_updated")}
        return [_row(d) for d in self.differences if d.name in grown]


def check_rewrite(original: onnx.ModelProto, rewritten: onnx.ModelProto) -> Checked:
    """Run both as `onnx-cbp check` does; if that is not possible, say why."""
    try:
        differences, effects = compare_fusions(original, rewritten)
    except OnnxCbpError as error:
        return Checked("not run", f"check could not run: {error}")
    bad = [d for d in differences if not d.within()]
    worst = max((d.relative for d in differences), default=0.0)
    if not bad:
        return Checked("within", f"within tolerance: largest relative difference {worst:.2e}", differences, effects)
    number = f"{len(bad)} result is" if len(bad) == 1 else f"{len(bad)} results are"
    blame = effects.blame()
    line = f"{number} too far apart" + (f": {blame}" if blame else "")
    return Checked("apart", line, differences, effects)


def _row(difference: Difference) -> dict[str, Any]:
    return {
        "name": difference.name,
        "kind": difference.kind,
        "relative": _number(difference.relative),
        "largest": _number(difference.largest),
        "good": difference.within(),
        "problem": difference.problem or "",
    }


def _effect(effect: Any) -> dict[str, Any]:
    by_itself = max((d.relative for d in effect.by_itself), default=0.0)
    return {
        "fusion": "none" if effect.fusion is None else f"+ {effect.fusion.name}",
        "relative": _number(max((d.relative for d in effect.differences), default=0.0)),
        "by_itself": None if effect.fusion is None else _number(by_itself),
        "good": all(d.within() for d in effect.differences),
    }


def _number(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None
