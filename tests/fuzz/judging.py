"""What a verb says, what a model computes, and whether two models compute the same."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

import onnx_cbp

_TOLERANCE = {"float32": 2e-3, "float64": 1e-6, "float16": 5e-2}
#: What is written where a verb neither returns nor says one line.
Report = dict[str, Any]


def tell(verb: str, call: Callable[[], Any], report: Report) -> Any:
    """The result of a verb; None where it raised. What it said and how long it took is put in the report."""
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


def run(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> dict[str, Any] | None:
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


def unshared(model: onnx.ModelProto) -> onnx.ModelProto:
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
            # A batch norm that trains, or a function with one; our ops write over nothing.
            may_update = len(node.output) > 1 and node.domain != "onnx_cbp"
            for index, name in enumerate(node.input):
                if name in known and name not in hidden:
                    if name in seen:
                        own = copy.graph.initializer.add()
                        own.CopyFrom(known[name])
                        own.name = node.input[index] = f"{name}/{len(copy.graph.initializer)}"
                    seen.add(name)
                elif name and isinstance(name, str) and index and may_update:
                    node.input[index] = f"{name}/{len(graph.node)}/{index}"
                    # ONNX Runtime's Identity shares the memory, and its Concat does not.
                    graph.node.append(helper.make_node("Concat", [name], [node.input[index]], axis=0))
            graph.node.append(node)
            waiting += [(attribute.g, hidden) for attribute in graph.node[-1].attribute if attribute.HasField("g")]
    return copy


def compare(
    verb: str, result: onnx.ModelProto, wanted: dict[str, Any], data: dict[str, np.ndarray], report: Report
) -> dict[str, Any] | None:
    """Hold a result against what the original computes; what the result computes, or None where it does not run."""
    got = run(result, data)
    if got is None:
        report["faults"].append(f"{verb}: the result does not run, and the original does")
        return None
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
    return got
