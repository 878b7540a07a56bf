"""Runs an original and a rewritten model on the same inputs and compares everything they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from onnx_cbp.checking.differences import Difference, incomparable
from onnx_cbp.checking.feeding.roles import written_in_place
from onnx_cbp.checking.feeding.seeding import refuse_other_random_nodes
from onnx_cbp.checking.fusion_effects import FusionEffects, fusion_effects
from onnx_cbp.checking.graphs import fed_inputs
from onnx_cbp.checking.models import Model, ModelSource
from onnx_cbp.checking.original import Original


def compare(
    original: ModelSource, rewritten: ModelSource, *, seed: int = 0, batch: int = 8, rtol: float | None = None
) -> list[Difference]:
    """Run two models on the same random inputs in ONNX Runtime and compare every result.

    Results are the graph outputs and, for training graphs, the inputs that the models write in place: running
    statistics and gradient accumulation buffers. Inputs are made from the original's graph: normal numbers, positive
    running variances, labels below the number of classes. Batch norms run a second time with variances near epsilon,
    and training graphs once more with gradients added to those of the step before (`input_sets`). Running variances in
    PyTorch's convention are compared as ONNX's (`convention`).

    Args:
        original: a model or its path.
        rewritten: the rewritten model or its path.
        seed: of the random inputs, and of random ops without their own seed.
        batch: the size of every symbolic dimension of the inputs.
        rtol: the relative difference that is allowed later; None is the tolerance of each type.

    Returns:
        One difference per result, graph outputs first. `Difference.within` judges it.

    Raises:
        OnnxCbpError: a model cannot be read, loaded or run, no inputs can be made for it, or only one of the two draws
            certain random numbers.
    """
    pair = _Pair.read(original, rewritten)
    problems = _different_inputs(pair.original.graph, pair.rewritten.graph)
    if problems:
        return problems
    yardstick = pair.yardstick(seed, batch)
    return yardstick.differences(yardstick.run(pair.rewritten), rtol)


def compare_fusions(
    original: ModelSource,
    rewritten: ModelSource,
    *,
    seed: int = 0,
    batch: int = 8,
    rtol: float | None = None,
    progress: Callable[[], object] = lambda: None,
) -> tuple[list[Difference], FusionEffects]:
    """Like `compare`, and also shows the effect of each fusion in the rewritten model.

    Args:
        original: a model or its path.
        rewritten: the rewritten model or its path.
        seed: of the random inputs, and of random ops without their own seed.
        batch: the size of every symbolic dimension of the inputs.
        rtol: the relative difference that is allowed later; None is the tolerance of each type.
        progress: called after the models are compared, before the fusions are.

    Returns:
        The result of `compare`, and the effects of the fusions; no effects if the models have different inputs.

    Raises:
        OnnxCbpError: as `compare` does.
    """
    pair = _Pair.read(original, rewritten)
    problems = _different_inputs(pair.original.graph, pair.rewritten.graph)
    if problems:
        return problems, FusionEffects([])
    yardstick = pair.yardstick(seed, batch)
    results = yardstick.run(pair.rewritten)
    differences = yardstick.differences(results, rtol)
    progress()
    return differences, fusion_effects(pair.original, pair.rewritten, yardstick, results, rtol)


@dataclass(frozen=True)
class _Pair:
    original: Model
    rewritten: Model

    @classmethod
    def read(cls, original: ModelSource, rewritten: ModelSource) -> _Pair:
        pair = cls(Model.read("original", original), Model.read("rewritten", rewritten))
        refuse_other_random_nodes(pair.original, pair.rewritten)
        return pair

    def yardstick(self, seed: int, batch: int) -> Original:
        written = written_in_place(self.original.graph) | written_in_place(self.rewritten.graph)
        return Original(self.original, written, seed, batch)


def _different_inputs(first: onnx.ModelProto, second: onnx.ModelProto) -> list[Difference]:
    """Why the two models cannot be fed with the same inputs."""
    before = {value.name: value.type.tensor_type.elem_type for value in fed_inputs(first)}
    after = {value.name: value.type.tensor_type.elem_type for value in fed_inputs(second)}
    problems = []
    for name in dict.fromkeys((*before, *after)):
        if name not in before or name not in after:
            where = "rewritten" if name in before else "original"
            problems.append(incomparable(name, "input", f"no input of the {where} model"))
        elif before[name] != after[name]:
            types = [onnx.TensorProto.DataType.Name(t).lower() for t in (before[name], after[name])]
            problem = f"{types[0]} in the original, {types[1]} in the rewritten model"
            problems.append(incomparable(name, "input", problem))
    return problems
