"""One mutated model through every verb: what it says, how long it takes, and whether results stay."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import onnx_cbp
from fuzz.graphs import any_model, feeds
from fuzz.judging import Report, compare, run, tell, unshared
from fuzz.mutations import mutate
from fuzz.training import train


def attempt(seed: int, stage: Callable[[str], None], skipped: Collection[str]) -> Report:
    """Try one seed; stages in `skipped` ended the process before.

    Returns:
        mutations: what was done to the model; calls: outcomes by verb ("returned", "refused" or "undocumented");
        faults: one text for each exception that is not documented, result that differs and model that changed;
        slow: calls over 10 seconds; compared: how many models were held against the original.
    """
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(seed)
    stage("generate")
    model = any_model(rng)
    names: list[str] = []
    if rng.random() > 0.15:
        model, names = mutate(model, rng)
    report: Report = {"mutations": names, "calls": {}, "faults": [], "slow": [], "compared": 0}
    before = model.SerializeToString(deterministic=True)
    data = None if _is_huge(model) else feeds(model, rng)
    stage("original")
    wanted = None if data is None or "original" in skipped else run(unshared(model), data)
    trains = "?"
    for verb, call in _verbs(model, rng, data).items():
        if verb in skipped or (verb == "update_bn" and "original" in skipped):
            continue
        stage(verb)
        result = tell(verb, call, report)
        if verb == "inspect" and result is not None:
            trains = "no" if all("inference form" in each.form for each in result) else "yes"
        same = verb == "rewrite" or (verb == "finalize" and trains == "no" and not names)
        if same and result is not None and wanted is not None and data is not None:
            stage(f"compare {verb}")
            compare(verb, result, wanted, data, report)
        if model.SerializeToString(deterministic=True) != before:
            report["faults"].append(f"{verb}: the model that was given changed")
            before = model.SerializeToString(deterministic=True)
    train(seed, model, data, _options(rng), stage, skipped, report)
    return report


def _is_huge(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime, which is to run the model, would ask for more memory or time than there is."""
    if any(each.name == "T19" for each in model.functions):  # a tower: 2^19 nodes, or more
        return True
    tensors = [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")]
    with contextlib.suppress(Exception):  # one that is no tensor
        return any(
            (np.abs(numpy_helper.to_array(t)) > 2**24).any() for t in tensors if t.data_type == TensorProto.INT64
        )
    return True


def _verbs(
    model: onnx.ModelProto, rng: np.random.Generator, data: dict[str, np.ndarray] | None
) -> dict[str, Callable[[], Any]]:
    options = _options(rng)
    outputs = None if rng.random() < 0.6 or not model.graph.output else model.graph.output[0].name
    how: dict[str, Any] = [{}, {"exact": True}, {"momentum": 0.5}, {"unbiased_running_var": False}][rng.integers(4)]
    return {
        "inspect": lambda: onnx_cbp.inspect(model),
        "rewrite": lambda: onnx_cbp.rewrite(model),
        "rewrite with options": lambda: onnx_cbp.rewrite(model, **options),
        "finalize": lambda: onnx_cbp.finalize(model, outputs=outputs),
        "update_bn": lambda: onnx_cbp.update_bn(model, [data or {}], **how),
    }


def _options(rng: np.random.Generator) -> dict[str, Any]:
    every: dict[str, list[Any]] = {
        "portable": [True],
        "one_pass": [False],
        "fold_relu": [False],
        "recompute_relu": [False],
        "synchronize": [True, "size:2", {"*": "world"}],
        "data_parallel": [True],
        "bucket_cap_mb": [0.001],
        "freeze": ["*", ["BatchNormalization*", "bn*"]],
        "unbiased_running_var": [True],
        "train": ["*", "BatchNormalization*"],
    }
    names = rng.choice(list(every), int(rng.integers(1, 4)), replace=False)
    return {str(name): every[name][int(rng.integers(len(every[name])))] for name in names}
