"""Separates parameters that an exporter merged, and finds out which ones a caller's names mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx_ir as ir

from onnx_cbp.graph_passes import RestoreBiasesPass, SeparateMergedPass

_log = logging.getLogger("onnx_cbp")


def take_apart(
    model: ir.Model, trained: Sequence[str] | None, frozen: Sequence[str], tied: Sequence[str] | None = None
) -> tuple[list[str] | None, list[str]]:
    """Give every parameter its own initializer; returns the parameters that `trained` and `frozen` then mean.

    If several parameters were merged into a name of the file, the name means all of them, except those that `frozen`
    names itself. The name of a weight also means the bias that the exporter removed from the same layer. Names that
    only the module has mean themselves, and then all other names do too. `tied` is that of `SeparateMergedPass`.

    Raises:
        OnnxCbpError: it cannot be decided which parameters are merged, and which are tied.
    """
    in_file = set(model.graph.initializers)
    separate = SeparateMergedPass(None if trained is None else [*trained], tied)
    separate(model)
    restore = RestoreBiasesPass()  # behind it: zeros that are back would look as if nothing had been merged
    restore(model)
    if trained is None:
        return None, separate.stands_for(list(frozen))
    # A name of the file stands for all of its parts, but for those that a list names itself.
    wanted = separate.stands_for(list(trained))
    of_module = ({*model.graph.initializers, *separate.names}) - in_file
    if not of_module & set(trained):
        wanted += [restore.biases[name] for name in wanted if name in restore.biases]
    wanted = [name for name in dict.fromkeys(wanted) if name in trained or name not in frozen]
    kept = [name for name in separate.stands_for(list(frozen)) if name in frozen or name not in wanted]
    _tell(separate, restore, list(trained), wanted)
    return wanted, kept


def _tell(separate: SeparateMergedPass, restore: RestoreBiasesPass, trained: list[str], wanted: list[str]) -> None:
    more = set(wanted) - set(trained)
    merged = {name: parts for name in trained if more & {*(parts := separate.parts.get(name, []))}}
    if merged:
        _log.warning(
            "requires_grad: the exporter merged equal parameters, which are taken apart and all trained: %s",
            "; ".join(f"'{name}' is {', '.join(repr(each) for each in parts)}" for name, parts in merged.items()),
        )
    biases = [name for name in dict.fromkeys(restore.biases.values()) if name in more]
    if biases:
        _log.warning(
            "requires_grad: biases that the exporter dropped since they were zero are back, and trained with their "
            "weights: %s",
            ", ".join(repr(name) for name in biases),
        )
