"""Runs an original and a rewritten model on the same inputs and compares everything they compute."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping

import numpy as np
import onnx

from onnx_cbp.checking.differences import (
    FLOOR,
    Difference,
    incomparable,
    is_float,
    magnitude,
    measure,
)
from onnx_cbp.checking.graphs import fed_inputs
from onnx_cbp.checking.inputs import make_inputs
from onnx_cbp.checking.roles import Kind, Role, find_roles, written_in_place
from onnx_cbp.checking.rounding import RUNS, slightly_off
from onnx_cbp.checking.sessions import run
from onnx_cbp.checking.yardstick import as_meant
from onnx_cbp.model_io import load_model

ModelSource = onnx.ModelProto | str | os.PathLike[str]
Results = dict[str, np.ndarray]


def compare(original: ModelSource, rewritten: ModelSource, *, seed: int = 0, batch: int = 8) -> list[Difference]:
    """Run two models on the same random inputs in ONNX Runtime and compare every result.

    Results are the graph outputs and, in training graphs, the inputs that the models write in place: running
    statistics and gradient accumulation buffers. Inputs are made from the original's graph: normal numbers, positive
    running variances, zero buffers, labels below the number of classes.

    Args:
        original: a model or the path of one.
        rewritten: what became of it.
        seed: of the random inputs.
        batch: what every symbolic dimension of the inputs becomes.

    Returns:
        One difference a result, graph outputs first. `Difference.within` judges it.

    Raises:
        OnnxCbpError: a model cannot be read, loaded or run, or no inputs can be made for it.
    """
    first, second = _graph(original), _graph(rewritten)
    roles = find_roles(first, batch)
    feeds = make_inputs(first, roles, seed, batch)
    problems = _different_inputs(first, second)
    if problems:
        return problems
    written = written_in_place(first) | written_in_place(second)
    # Without optimisations, because they break the yardstick: ConstantSharing makes a fresh batch norm's scale and
    # running variance one tensor, which BatchNormalization writes over while it still reads it (onnxruntime#29790).
    # The rewritten model runs as a user would run it.
    meant = as_meant(original, first)
    yardstick = _Runner(_name("original", original), meant, first, written, True, seed)
    candidate = _Runner(_name("rewritten", rewritten), rewritten, second, written, False, seed)
    before, after = yardstick.results(feeds), candidate.results(feeds)
    kinds = {name: _kind(name, value, roles) for name, value in before.items()}
    differences = _measure(before, after, kinds)
    if any(d.problem is None and not d.within() for d in differences):
        noise = _rounding_noise(yardstick, feeds, roles, before, kinds, seed)
        differences = [dataclasses.replace(d, noise=noise[d.kind]) if d.kind in noise else d for d in differences]
    return differences


@dataclasses.dataclass(frozen=True)
class _Runner:
    what: str
    source: ModelSource
    graph: onnx.ModelProto
    written: set[str]
    as_written: bool
    seed: int

    def results(self, feeds: Mapping[str, np.ndarray]) -> Results:
        """Graph outputs, then what was written in place. The feeds stay as they are."""
        own = {name: array.copy() for name, array in feeds.items()}
        outputs = run(self.what, self.source, self.graph, own, as_written=self.as_written, seed=self.seed)
        arrays = {name: np.asarray(value) for name, value in outputs.items()}
        return arrays | {name: own[name] for name in own if name in self.written}


def _graph(source: ModelSource) -> onnx.ModelProto:
    # ONNX Runtime reads external data itself.
    return source if isinstance(source, onnx.ModelProto) else load_model(source, external_data=False)


def _name(what: str, source: ModelSource) -> str:
    return f"the {what} model" if isinstance(source, onnx.ModelProto) else f"'{os.fspath(source)}'"


def _different_inputs(first: onnx.ModelProto, second: onnx.ModelProto) -> list[Difference]:
    """What keeps the two from being fed alike."""
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


def _kind(name: str, value: np.ndarray, roles: Mapping[str, Role]) -> str:
    if name in roles:
        return "gradient" if roles[name].kind is Kind.BUFFER else "running statistic"
    if is_float(value) and "grad" in name.lower():
        return "gradient"  # what gradient graphs call them, ONNX Runtime's among them
    return "loss" if is_float(value) and value.size == 1 else "output"


def _measure(before: Results, after: Results, kinds: Mapping[str, str]) -> list[Difference]:
    floors = _floors(before, kinds)
    differences = []
    for name in dict.fromkeys((*before, *after)):
        if name not in before or name not in after:
            where = "rewritten" if name in before else "original"
            differences.append(incomparable(name, "output", f"missing in the {where} model"))
            continue
        floor = floors.get(kinds[name], 0.0)
        differences.append(measure(name, kinds[name], before[name], after[name], floor))
    return differences


def _floors(results: Results, kinds: Mapping[str, str]) -> dict[str, float]:
    """The least that a difference of each kind is held against; a loss is judged alone."""
    floors: dict[str, float] = {}
    for name, array in results.items():
        if kinds[name] != "loss" and is_float(array):
            floors[kinds[name]] = max(floors.get(kinds[name], 0.0), FLOOR * magnitude(array))
    return floors


def _rounding_noise(
    yardstick: _Runner,
    feeds: Mapping[str, np.ndarray],
    roles: Mapping[str, Role],
    before: Results,
    kinds: Mapping[str, str],
    seed: int,
) -> dict[str, float]:
    """By kind, the largest relative difference between the original and itself on inputs that are slightly off."""
    generator = np.random.default_rng([seed, 1])
    noise: dict[str, float] = {}
    for _ in range(RUNS):
        again = yardstick.results(slightly_off(feeds, roles, generator))
        for d in _measure(before, again, kinds):
            if math.isfinite(d.relative) and is_float(before[d.name]):
                noise[d.kind] = max(noise.get(d.kind, 0.0), d.relative)
    return noise
