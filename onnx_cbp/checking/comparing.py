"""Runs an original and a rewritten model on the same inputs and compares everything they compute."""

from __future__ import annotations

import os
from typing import Any

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
from onnx_cbp.checking.roles import Kind, find_roles, written_in_place
from onnx_cbp.checking.sessions import run
from onnx_cbp.model_io import load_model

ModelSource = onnx.ModelProto | str | os.PathLike[str]


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
    first = _graph(original)
    second = _graph(rewritten)
    feeds = make_inputs(first, seed, batch)
    problems = _different_inputs(first, second)
    if problems:
        return problems
    # Without optimisations, because they break the yardstick: ConstantSharing makes a fresh batch norm's scale and
    # running variance one tensor, which BatchNormalization writes over while it still reads it (onnxruntime#29790).
    # The rewritten model runs as a user would run it.
    before, before_feeds = _run(_name("original", original), original, first, feeds, True, seed)
    after, after_feeds = _run(_name("rewritten", rewritten), rewritten, second, feeds, False, seed)
    written = written_in_place(first) | written_in_place(second)
    results = {name: (before_feeds[name], after_feeds[name]) for name in feeds if name in written}
    kinds = _kinds_of_written(first, batch, set(results))
    differences = []
    for name in dict.fromkeys((*before, *after)):
        if name in before and name in after:
            results[name] = (before[name], after[name])
            kinds[name] = _kind(name, before[name])
        else:
            where = "rewritten" if name in before else "original"
            differences.append(incomparable(name, "output", f"missing in the {where} model"))
    floors = _floors(results, kinds)
    order = sorted(results, key=lambda name: name in feeds)
    for name in order:
        first_value, second_value = map(np.asarray, results[name])
        floor = floors.get(kinds[name], 0.0)
        differences.append(measure(name, kinds[name], first_value, second_value, floor))
    return differences


def _graph(source: ModelSource) -> onnx.ModelProto:
    # ONNX Runtime reads external data itself.
    return source if isinstance(source, onnx.ModelProto) else load_model(source, external_data=False)


def _name(what: str, source: ModelSource) -> str:
    return f"the {what} model" if isinstance(source, onnx.ModelProto) else f"'{os.fspath(source)}'"


def _run(
    what: str,
    source: ModelSource,
    graph: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    as_written: bool,
    seed: int,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    own = {name: array.copy() for name, array in feeds.items()}
    return run(what, source, graph, own, as_written=as_written, seed=seed), own


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


def _kinds_of_written(model: onnx.ModelProto, batch: int, written: set[str]) -> dict[str, str]:
    roles = find_roles(model, batch)
    return {name: "gradient" if roles[name].kind is Kind.BUFFER else "running statistic" for name in written}


def _kind(name: str, value: Any) -> str:
    array = np.asarray(value)
    if is_float(array) and "grad" in name.lower():
        return "gradient"  # what gradient graphs call them, ONNX Runtime's among them
    return "loss" if is_float(array) and array.size == 1 else "output"


def _floors(results: dict[str, tuple[Any, Any]], kinds: dict[str, str]) -> dict[str, float]:
    """The least that a difference of each kind is held against; a loss is judged alone."""
    floors: dict[str, float] = {}
    for name, (before, _) in results.items():
        array = np.asarray(before)
        if kinds[name] != "loss" and is_float(array):
            floors[kinds[name]] = max(floors.get(kinds[name], 0.0), FLOOR * magnitude(array))
    return floors
