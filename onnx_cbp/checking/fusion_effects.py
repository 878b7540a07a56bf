"""Shows the effect of each fusion on the results: it rewrites with one more fusion at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from onnx_cbp.checking.convention import is_unbiased
from onnx_cbp.checking.differences import Difference
from onnx_cbp.checking.graphs import nodes
from onnx_cbp.checking.models import Model, Results
from onnx_cbp.checking.modes import Modes, changed_modes
from onnx_cbp.checking.original import Original
from onnx_cbp.checking.reproduction import first_change
from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.fusions import FUSIONS, Fusion
from onnx_cbp.rewriting import rewrite
from onnx_cbp.twin import in_standard_ops

_COLLECTIVES = ("AllGather", "AllReduce", "AllReduceBucket")


@dataclass(frozen=True)
class FusionEffect:
    """The original, rewritten with some fusions switched on.

    Attributes:
        fusion: the last one that is on, together with all those of the rows before; None: all are off.
        differences: from the original, one per result.
        by_itself: from the row before, which is the same rewrite without this fusion; empty in the first row.
    """

    fusion: Fusion | None
    differences: list[Difference]
    by_itself: list[Difference] = field(default_factory=list)


@dataclass(frozen=True)
class FusionEffects:
    """The effects of a rewritten model's fusions, which are switched on one after another.

    Attributes:
        rows: first none on, then one more in each row; empty if the model has no ops of ours.
        note: why the rows do not show everything about the model, in one sentence; None if they do.
        modes: the batch norms that were made to train or frozen, in every row as in the model.
    """

    rows: list[FusionEffect]
    note: str | None = None
    modes: Modes = field(default_factory=Modes)

    def blame(self, rtol: float | None = None) -> str | None:
        """Which fusion brings a model out of tolerance, in one clause; None if the rows cannot tell."""
        # Batch norms that were made to train or frozen differ on purpose: then rows are compared with each other.
        asked = self.modes.note() is not None
        for row in self.rows:
            if all(d.within(rtol) for d in (row.by_itself if asked else row.differences)):
                continue
            if row.fusion is None:
                return "without any fusion it is too far apart as well: none is to blame"
            return f"{row.fusion.name} is to blame: with it off ({row.fusion.option}) all is within tolerance"
        if asked or not self.rows:
            return None
        return "no fusion is to blame: what rewrite makes of the original is within tolerance"


def fusion_effects(
    original: Model, rewritten: Model, yardstick: Original, results: Mapping[str, Results], rtol: float | None
) -> FusionEffects:
    """Rewrite the original with the rewritten model's fusions, one more at a time, and run each result.

    Args:
        original: the original.
        rewritten: the rewritten model.
        yardstick: the original, after its run.
        results: the results of the rewritten model.
        rtol: the relative difference allowed; None is the tolerance of each type.
    """
    have = list(_fusions(rewritten.graph))
    alone = any(node.domain == DOMAIN and node.op_type in _COLLECTIVES for node in _nodes(rewritten.graph))
    if not _has_our_ops(rewritten.graph):
        return FusionEffects([])
    if _has_our_ops(original.graph):
        return FusionEffects([], f"{original.what} has ops of ours itself, so what each fusion does cannot be shown")
    rows: list[FusionEffect] = []
    before: Mapping[str, Results] | None = None
    change: str | None = None
    modes = Modes()
    try:
        whole = original.whole()
        modes = changed_modes(whole, rewritten.graph)
        for number in range(len(have) + 1):
            on = have[:number]
            made = _rewritten(whole, on, rewritten.graph, modes)
            last = number == len(have) and not alone
            if [f.name for f in _fusions(made.graph)] != [f.name for f in on]:
                if _is_twin(whole, rewritten):
                    return FusionEffects([], _of_a_twin(original, rewritten), modes)
                return FusionEffects(rows, _not_made(on, original, rewritten), modes)
            change = first_change(made.graph, rewritten.whole()) if last else change
            # If it is the rewritten model itself, that has already run.
            after = results if last and change is None else yardstick.run(made)
            by_itself = [] if before is None else yardstick.between(before, after, rtol)
            rows.append(FusionEffect(on[-1] if on else None, yardstick.differences(after, rtol), by_itself))
            before = after
    except OnnxCbpError as error:
        return FusionEffects(rows, f"more of the fusions cannot be shown: {error}", modes)
    if alone:
        return FusionEffects(rows, _communicates(rewritten), modes)
    if change is not None and _is_twin(whole, rewritten):
        return FusionEffects([], _of_a_twin(original, rewritten), modes)
    return FusionEffects(rows, None if change is None else _altered(change, rewritten), modes)


def _is_twin(original: onnx.ModelProto, rewritten: Model) -> bool:
    """Whether the original is just the rewritten model in ONNX's own ops."""
    try:
        return first_change(in_standard_ops(rewritten.whole()), original) is None
    except OnnxCbpError:  # an op without a body
        return False


def _fusions(model: onnx.ModelProto) -> Iterator[Fusion]:
    return (fusion for fusion in FUSIONS if any(fusion.made(node) for node in _nodes(model)))


def _has_our_ops(model: onnx.ModelProto) -> bool:
    return any(node.domain == DOMAIN for node in _nodes(model))


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes that a rewrite may insert: not those of functions."""
    return nodes(model.graph.node)


def _rewritten(model: onnx.ModelProto, on: list[Fusion], like: onnx.ModelProto, modes: Modes) -> Model:
    """The original, rewritten like `like`, with these fusions."""
    switches: dict[str, Any] = {fusion.name: fusion in on for fusion in FUSIONS} | modes.options()
    made = rewrite(model, portable=bool(like.functions), unbiased_running_var=is_unbiased(like), **switches)
    names = " and ".join(fusion.name for fusion in on) or "no fusion"
    return Model(f"the original, rewritten with {names},", made, made)


def _communicates(rewritten: Model) -> str:
    return (
        f"{rewritten.what} exchanges values with other replicas. It was run as the only one, and the rows show the "
        "original rewritten without collectives"
    )


def _not_made(on: list[Fusion], original: Model, rewritten: Model) -> str:
    what = f"the fusion {on[-1].name}" if on else "any op"
    return f"rewrite does not make {what} of {original.what}: {rewritten.what} was made of another model, or altered"


def _of_a_twin(original: Model, rewritten: Model) -> str:
    return (
        f"{original.what} is {rewritten.what} in ONNX's own ops: no rewrite is between them, so there is no fusion to "
        "show"
    )


def _altered(change: str, rewritten: Model) -> str:
    return (
        f"{rewritten.what} is not what rewrite makes of the original with these fusions ({change}): it was altered, or "
        "made by another version. The rows show what rewrite makes now"
    )
