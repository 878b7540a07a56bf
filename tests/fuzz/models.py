"""One mutated model through every verb: what it says, how long it takes, and whether results stay."""

from __future__ import annotations

import contextlib
import time
import traceback
import warnings
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from fuzz.graphs import any_model, feeds
from fuzz.mutations import mutate

_TOLERANCE = {"float32": 2e-3, "float64": 1e-6, "float16": 5e-2}
#: What is written where a verb neither returns nor says one line.
Report = dict[str, Any]


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
    wanted = None if data is None or "original" in skipped else _run(_unshared(model), data)
    trains = "?"
    for verb, call in _verbs(model, rng, data).items():
        if verb in skipped or (verb == "update_bn" and "original" in skipped):
            continue
        stage(verb)
        result = _call(verb, call, report)
        if verb == "inspect" and result is not None:
            trains = "no" if all("inference form" in each.form for each in result) else "yes"
        same = verb == "rewrite" or (verb == "finalize" and trains == "no" and not names)
        if same and result is not None and wanted is not None and data is not None:
            stage(f"compare {verb}")
            _compare(verb, result, wanted, data, report)
        if model.SerializeToString(deterministic=True) != before:
            report["faults"].append(f"{verb}: the model that was given changed")
            before = model.SerializeToString(deterministic=True)
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


def _unshared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a tensor of its own for each running statistic: what ONNX Runtime computes right.

    Its batch norm takes the memory of the running statistics for the updated ones, also where B is the same tensor, or
    where the statistic is an output of the graph that another batch norm made.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {tensor.name: tensor for tensor in copy.graph.initializer}
    seen: set[str] = set()
    waiting: list[tuple[onnx.GraphProto, frozenset[str]]] = [(copy.graph, frozenset())]
    while waiting:
        graph, hidden = waiting.pop()  # a subgraph may call what is its own as an initializer is called
        if graph is not copy.graph:
            hidden |= {each.name for each in (*graph.input, *graph.initializer)}
            hidden |= {name for node in graph.node for name in node.output}
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            may_update = len(node.output) > 1  # a batch norm that trains, or a function with one
            for index, name in enumerate(node.input):
                if name in known and name not in hidden:
                    if name in seen:
                        own = copy.graph.initializer.add()
                        own.CopyFrom(known[name])
                        own.name = node.input[index] = f"{name}/{len(copy.graph.initializer)}"
                    seen.add(name)
                elif name and index and may_update:
                    node.input[index] = f"{name}/{len(graph.node)}/{index}"
                    # ONNX Runtime's Identity shares the memory, and its Concat does not.
                    graph.node.append(helper.make_node("Concat", [name], [node.input[index]], axis=0))
            graph.node.append(node)
            waiting += [(attribute.g, hidden) for attribute in graph.node[-1].attribute if attribute.HasField("g")]
    return copy


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


def _call(verb: str, call: Callable[[], Any], report: Report) -> Any:
    started, result = time.process_time(), None
    try:
        result = call()
        report["calls"][verb] = "returned"
    except onnx_cbp.OnnxCbpError as error:
        report["calls"][verb] = "refused"
        if "\n" in str(error) or not str(error):
            report["faults"].append(f"{verb}: more than one line: {error}")
    except Exception as error:  # that is what is looked for
        report["calls"][verb] = "undocumented"
        frames = [
            f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        report["faults"].append(
            f"{verb}: {type(error).__name__}: {' '.join(str(error).split())[:200]} [{' '.join(frames[-4:])}]"
        )
    took = time.process_time() - started
    if took > 10:
        report["slow"].append(f"{verb}: {took:.1f} s")
    return result


def _run(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """The outputs of a model by name; None where it does not run."""
    with contextlib.suppress(Exception):  # mutants hardly ever do
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        onnx_cbp.register(options)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        known = {each.name for each in session.get_inputs()}
        names = [each.name for each in session.get_outputs()]
        values = session.run(names, {name: value.copy() for name, value in data.items() if name in known})
        return dict(zip(names, values, strict=True))
    return None


def _compare(
    verb: str, result: onnx.ModelProto, wanted: dict[str, Any], data: dict[str, np.ndarray], report: Report
) -> None:
    got = _run(result, data)
    if got is None:
        report["faults"].append(f"{verb}: the result does not run, and the original does")
        return
    report["compared"] += 1
    # ONNX Runtime writes updated statistics over an initializer, also where that is a result.
    stored = {tensor.name for tensor in result.graph.initializer}
    for name, value in wanted.items():
        if name in stored:
            continue
        if name not in got:
            if verb == "rewrite":
                report["faults"].append(f"{verb}: the output '{name}' is lost")
            continue
        want, have = np.asarray(value), np.asarray(got[name])
        if want.shape != have.shape or want.dtype != have.dtype:
            report["faults"].append(f"{verb}: '{name}' is {have.dtype}{have.shape}, was {want.dtype}{want.shape}")
        elif want.dtype.kind == "f" and want.size and np.isfinite(want).all():
            error = np.abs(want.astype(np.float64) - have).max() / max(np.abs(want).max(), 1e-3)
            if not error <= _TOLERANCE.get(str(want.dtype), 1e-6):
                report["faults"].append(f"{verb}: '{name}' differs by {error:.2g}")
        elif want.dtype.kind in "iub" and not np.array_equal(want, have):
            report["faults"].append(f"{verb}: '{name}' differs")
