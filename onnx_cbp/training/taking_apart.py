"""Separates parameters that an exporter merged, and finds out which ones a caller's names mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import RestoreBiasesPass, SeparateMergedPass
from onnx_cbp.graph_passes.core.types import FLOATS
from onnx_cbp.training.builders.weights import is_made_up, is_weight

_log = logging.getLogger("onnx_cbp")


def take_apart(
    model: ir.Model, trained: Sequence[str] | None, frozen: Sequence[str], tied: Sequence[str] | None = None
) -> tuple[list[str] | None, list[str]]:
    """Give every parameter its own initializer; returns the parameters that `trained` and `frozen` then mean.

    If several parameters were merged into a name of the file, the name means all of them, except those that `frozen`
    names itself. The name of a weight also means the bias that the exporter removed from the same layer. Names that
    only the module has mean themselves, and then all other names do too. `tied` is that of `SeparateMergedPass`.

    Raises:
        OnnxCbpError: it cannot be decided which parameters are merged, and which are tied; or tied ones are two
            initializers.
    """
    if tied is None:
        _refuse_transposed_copies(model, trained, frozen)
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


def _refuse_transposed_copies(model: ir.Model, trained: Sequence[str] | None, frozen: Sequence[str]) -> None:
    """Refuse a matrix that an exporter made by transposing a parameter which something else reads, too.

    The two would train apart, and in the module they are one.
    """
    matrices = [v for v in model.graph.initializers.values() if _is_matrix(v) and v.name not in frozen]
    for copy in filter(is_made_up, matrices):
        for value in matrices:
            if is_made_up(value) or not _is_transposed(copy, value):
                continue
            if any(is_weight(v) if trained is None else v.name in trained for v in (copy, value)):
                raise OnnxCbpError(
                    f"initializer '{copy.name}' is '{value.name}', transposed by the exporter: weights that the model "
                    "ties would train apart: export with optimize=False (or do_constant_folding=False); or say "
                    "tied_params=[] (--tied ''), if they are not tied"
                )


def _is_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    return value.dtype in FLOATS and tensor is not None and len(tensor.shape) == 2 and bool(value.uses())


def _is_transposed(copy: ir.Value, value: ir.Value) -> bool:
    """Whether one matrix is the other one, transposed. Equal elements, as in zeros, tell nothing."""
    first, second = copy.const_value, value.const_value
    assert first is not None
    assert second is not None
    if tuple(first.shape) != tuple(second.shape)[::-1] or copy.dtype != value.dtype:
        return False
    array, other = first.numpy(), second.numpy()
    if not array.size or not np.array_equal(array[0], other[:, 0]):  # most differ there
        return False
    return np.array_equal(array, other.T) and bool((array != array.flat[0]).any())


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
