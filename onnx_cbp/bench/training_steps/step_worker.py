"""A process that runs training steps of one graph for the benchmark: bench/worker.py with two more commands.

    python step_worker.py onnxruntime

    {"do": "profile", "id": str, "warm_up": int, "runs": int, "prefix": str, "nodes": [[name, op type], ...]}
        runs this many steps of what was prepared, with a profile of that prefix, and forgets it; answers the seconds
        of a step and of the nodes' kernels in it, and how many of the nodes the profile has
    {"do": "memory", "id": str, "runs": int}
        answers the process's own resident bytes before this many steps, and the maximum during them

The Python of this package runs it, and it imports the package.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

# It is run by path, so the folder of this file must not be searched for imports.
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)

import numpy as np

from onnx_cbp.bench.worker import Commands, Prepared, commands, serve, versions

_FATAL_ONLY = 4  # errors are raised too

#: Name and op type.
NodeKey = tuple[str, str]


def _prepare(task: dict[str, Any], threads: int) -> Prepared:
    import onnxruntime as ort

    from onnx_cbp.checking.sessions import _keep_sizes

    options = ort.SessionOptions()
    _keep_sizes(options)
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = task["arena"]
    if task["library"]:
        options.register_custom_ops_library(task["library"])
    if task["profile"]:
        options.enable_profiling = True
        options.profile_file_prefix = task["profile"]
    return _module(task, options) if task["checkpoint"] else _session(task, options)


def _module(task: dict[str, Any], options: Any) -> Prepared:
    """Steps as in a training loop: forward and backward by a Module, then the Optimizer."""
    from onnx_cbp.training import Artifacts, Trainer

    trainer = Trainer.load(Artifacts(Path(task["model"]), Path(task["checkpoint"]), None), options)
    # The optimiser gets the same options, and its profile would overwrite that of the training graph.
    options.enable_profiling = False
    if task["optimizer"]:
        trainer.load_optimizer(Path(task["optimizer"]))
    batch = tuple(np.load(path) for path in task["inputs"].values())
    losses = [0.0]

    def run(runs: int) -> None:
        for _ in range(runs):
            losses[0] = trainer.step(batch)

    return Prepared(run, lambda: {"loss": np.array(losses[0])})


def _session(task: dict[str, Any], options: Any) -> Prepared:
    """Runs of a single graph; what it writes in place goes into the arrays that are bound here."""
    import onnxruntime as ort

    session = ort.InferenceSession(task["model"], options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    keep = []
    for name, path in task["inputs"].items():
        keep.append(ort.OrtValue.ortvalue_from_numpy(np.load(path)))
        binding.bind_ortvalue_input(name, keep[-1])
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, "cpu")

    def run(runs: int) -> None:
        for _ in range(runs):
            session.run_with_iobinding(binding)

    def outputs() -> dict[str, np.ndarray]:
        return {names[0]: binding.get_outputs()[0].numpy()} if keep else {}

    return Prepared(run, outputs)


def _profile(command: dict[str, Any], prepared: dict[str, Prepared]) -> dict[str, Any]:
    step = prepared.pop(command["id"])
    step.run(command["warm_up"])
    seconds = []
    for _ in range(command["runs"]):
        start = time.perf_counter()
        step.run(1)
        seconds.append(time.perf_counter() - start)
    del step
    gc.collect()  # a session writes its profile when it ends; for a Module there is no other way
    (file,) = Path(command["prefix"]).parent.glob(f"{Path(command['prefix']).name}*.json")
    events = sorted(json.loads(file.read_text(encoding="utf-8")), key=lambda event: event.get("ts", 0))
    file.unlink()
    runs = [event for event in events if event["name"] == "model_run"][-command["runs"] :]
    kernels: list[dict[NodeKey, float]] = [_by_node(_within(run, events)) for run in runs]
    # Profiling itself takes time, up to a quarter of a small network's step, but not inside kernels. So the time of a
    # step is here that of its kernels, and of the work outside of the graph, such as the optimizer.
    outside = [step - run["dur"] * 1e-6 for step, run in zip(seconds, runs, strict=True)]
    # The median of each node, not of the steps. If others use the machine too, they slow down some node in every step,
    # mostly one that runs for long.
    medians = {key: statistics.median(of.get(key, 0.0) for of in kernels) for key in kernels[-1]}
    wanted = {(name, op_type) for name, op_type in command["nodes"]}
    return {
        "seconds": sum(medians.values()) + max(statistics.median(outside), 0.0),
        "nodes_seconds": sum(value for key, value in medians.items() if key in wanted),
        "found": len(wanted & medians.keys()),
    }


def _within(run: dict[str, Any], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernels of a run, in order."""
    end = run["ts"] + run["dur"]
    return [event for event in events if _node(event) is not None and run["ts"] <= event["ts"] < end]


def _by_node(events: list[dict[str, Any]]) -> dict[NodeKey, float]:
    """Seconds of each node's kernel. Nodes run one after another, except those in a subgraph.

    The time of nodes in a subgraph counts for themselves, and not for the node with the subgraph.
    """
    seconds: dict[NodeKey, float] = {}
    around: list[tuple[NodeKey, float]] = []
    for event in events:
        key = _node(event)
        assert key is not None
        while around and event["ts"] >= around[-1][1]:
            around.pop()
        seconds[key] = seconds.get(key, 0.0) + event["dur"] * 1e-6
        if around:
            seconds[around[-1][0]] -= event["dur"] * 1e-6
        around.append((key, event["ts"] + event["dur"]))
    return seconds


def _node(event: dict[str, Any]) -> NodeKey | None:
    """Name and op type of the node whose kernel ran; None for any other event."""
    if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
        return None
    return event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]


def resident_peak(command: dict[str, Any], prepared: dict[str, Prepared]) -> dict[str, Any]:
    """The answer to the command "memory"."""
    gc.collect()
    before = _status("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present memory
    prepared[command["id"]].run(command["runs"])
    # Pages of files hold the code of libraries, which no process owns. They came with the first step and stay, so the
    # peak of later steps includes them.
    return {"before": before, "peak": max(_status("VmHWM") - _status("RssFile") - _status("RssShmem"), before)}


def _status(field: str) -> int:
    """A number of bytes from the kernel's status of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Answer commands until stdin ends."""
    prepared: dict[str, Prepared] = {}
    known: Commands = commands(_prepare, prepared)
    known["profile"] = lambda command: _profile(command, prepared)
    known["memory"] = lambda command: resident_peak(command, prepared)
    serve(lambda: versions("onnxruntime"), known)


if __name__ == "__main__":
    main()
