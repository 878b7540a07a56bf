"""What replicas do in tests, and how they are started: the same under every engine.

As a program, this file is one replica: `python replicas.py ENGINE SCENARIO OPTIONS RESULTS`, with OPTIONS in JSON,
writes what came of the scenario to the file RESULTS/<rank>.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

import onnx_cbp
from onnx_cbp import distributed
from onnx_cbp.custom_ops import DOMAIN

#: Seconds: long enough for a loaded machine to start, short enough to wait for.
PATIENCE, SHORT = 60.0, 2.0
#: Seconds after which a test ends what hangs.
LIMIT = 120

SHAPE = (13, 5, 4)
EPSILON = 1e-5


# Models.


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), domain=DOMAIN, name=f"{op} of {outputs}", **attributes)


def model(nodes: list[onnx.NodeProto], inputs: dict[str, int], outputs: dict[str, int]) -> onnx.ModelProto:
    """A model; inputs and outputs by name, with their types; their shapes are unknown."""
    values = [
        [helper.make_tensor_value_info(name, kind, None) for name, kind in formals.items()]
        for formals in (inputs, outputs)
    ]
    return helper.make_model(
        helper.make_graph(nodes, "replica", *values),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)],
        ir_version=8,
    )


def session(made: onnx.ModelProto, backend: str = "native", **options: Any) -> Callable[..., list[np.ndarray]]:
    """A session of a model, as a function of its inputs; what went wrong in a Python op is raised."""
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = 1
    session_options.log_severity_level = 4
    for name, value in options.items():
        setattr(session_options, name, value)
    onnx_cbp.register(session_options, backend)
    runner = ort.InferenceSession(made.SerializeToString(), session_options, providers=["CPUExecutionProvider"])

    def run(**feeds: np.ndarray) -> list[np.ndarray]:
        results = runner.run(None, feeds)
        onnx_cbp.raise_python_op_error()
        return results

    return run


def reducing(layer: str = "bn1", channels: str = "C", group: str = "world", **options: Any) -> Any:
    """A session of one AllReduce."""
    number = TensorProto.FLOAT
    made = model(
        [node("AllReduce", "a b", "c d", group=group, reduction="sum", layer=layer)],
        {"a": number, "b": number},
        {"c": number, "d": number},
    )
    return session(made, **options)


def batch_norm(group: str) -> onnx.ModelProto:
    """A synchronised batch norm, forward and backward."""
    number = TensorProto.FLOAT
    made = model(
        [
            node("ChannelStats", "X", "m v n", axis=1, stash_type=1),
            node("AllGather", "m v n", "ms vs ns", group=group, layer="bn"),
            node("ChannelStatsMerge", "ms vs ns", "mean var count"),
            node("ChannelNormalize", "X scale B mean var", "Y", axis=1, epsilon=EPSILON),
            node("ChannelBackpropStats", "X mean inv_std dY", "sg bg", axis=1),
            node("AllReduce", "sg bg", "scale_grad bias_grad", group=group, reduction="sum", layer="bn"),
            node("ChannelBackprop", "dY X scale mean inv_std scale_grad bias_grad count", "dX", axis=1),
        ],
        dict.fromkeys(["X", "scale", "B", "dY"], number),
        {
            **dict.fromkeys(["Y", "mean", "var", "scale_grad", "bias_grad", "dX"], number),
            "count": TensorProto.INT64,
        },
    )
    epsilon = helper.make_node("Constant", [], ["epsilon"], value_float=EPSILON)
    shifted = helper.make_node("Add", ["var", "epsilon"], ["shifted"])
    std = helper.make_node("Sqrt", ["shifted"], ["std"])
    inverse = helper.make_node("Reciprocal", ["std"], ["inv_std"])
    for i, standard in enumerate((epsilon, shifted, std, inverse)):
        made.graph.node.insert(3 + i, standard)
    return made


BATCH_NORM_OUTPUTS = ("Y", "mean", "var", "scale_grad", "bias_grad", "dX", "count")


# Data, the same in every replica.


def data() -> dict[str, np.ndarray]:
    """A whole batch, at an offset that unsynchronised statistics would show in."""
    rng = np.random.default_rng(11)
    X = rng.normal(3.0, 2.0, SHAPE) + np.arange(SHAPE[0]).reshape(-1, 1, 1)
    made = {"X": X, "dY": rng.normal(0.2, 1.0, SHAPE), "scale": rng.normal(1.0, 0.3, SHAPE[1])}
    made["B"] = rng.normal(0.0, 0.3, SHAPE[1])
    return {name: value.astype(np.float32) for name, value in made.items()}


def shard(rank: int, replicas: int) -> slice:
    """Samples of a replica: unequal numbers of them, and none at all for the last replica where there are three."""
    bounds = {2: [0, 4, 13], 3: [0, 9, 13, 13], 4: [0, 1, 6, 8, 13]}[replicas]
    return slice(bounds[rank], bounds[rank + 1])


# Scenarios: what one replica does. They return what JSON can hold.


def trains(backend: str, group: str = "world", parts: list[list[int]] | None = None) -> dict[str, Any]:
    """Two runs of a batch norm; every replica of a group has a shard of the group's batch."""
    part = next(p for p in parts or [list(range(distributed.world_size()))] if distributed.rank() in p)
    mine = shard(part.index(distributed.rank()), len(part)) if len(part) > 1 else slice(None)
    values = data()
    feeds = {name: value[mine] if name in ("X", "dY") else value for name, value in values.items()}
    run = session(batch_norm(group), backend)
    first, second = run(**feeds), run(**feeds)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    return {name: value.tolist() for name, value in zip(BATCH_NORM_OUTPUTS, first, strict=True)}


def counts(backend: str) -> dict[str, Any]:
    """Counts that only doubles carry, and the types and shapes of what comes back."""
    rank = distributed.rank()
    result = {}
    for number, dtype in ((TensorProto.FLOAT, np.float32), (TensorProto.DOUBLE, np.float64)):
        run = session(
            model(
                [node("AllGather", "m v n", "ms vs ns", group="world", layer=f"{np.dtype(dtype).name}")],
                {"m": number, "v": number, "n": TensorProto.INT64},
                {"ms": number, "vs": number, "ns": TensorProto.INT64},
            ),
            backend,
        )
        value = (np.array([1.0, 1 / 3]) + rank).astype(dtype)
        means, variances, numbers = run(m=value, v=-value, n=np.array(2**53 - rank, np.int64))
        np.testing.assert_array_equal(means, -variances)
        assert means.dtype == dtype
        result[np.dtype(dtype).name] = [means.tolist(), numbers.tolist()]
    return result


def buckets(backend: str) -> dict[str, Any]:
    """Buckets of both types, sum and mean; some larger than what is kept from run to run."""
    result = {}
    for number, dtype in ((TensorProto.FLOAT, np.float32), (TensorProto.DOUBLE, np.float64)):
        for reduction in ("sum", "mean"):
            for elements in (1, 1000, 300_000):
                layer = f"{number} {reduction} {elements}"
                made = model(
                    [node("AllReduceBucket", "b", "r", group="world", reduction=reduction, layer=layer)],
                    {"b": number},
                    {"r": number},
                )
                every = [
                    np.random.default_rng(rank).normal(size=elements).astype(dtype)
                    for rank in range(distributed.world_size())
                ]
                run = session(made, backend)
                run(b=every[0])
                (got,) = run(b=every[distributed.rank()])
                want = np.sum(every, axis=0, dtype=np.float64) / (len(every) if reduction == "mean" else 1)
                np.testing.assert_allclose(got, want, rtol=1e-5 if number == 1 else 1e-13, atol=1e-6)
                assert got.dtype == dtype
                result[layer] = got.tobytes().hex()[-64:]
    return result


def _vectors(channels: int = 3) -> dict[str, np.ndarray]:
    return {name: np.ones(channels, np.float32) for name in "ab"}


def stalls(backend: str) -> None:
    """One replica does something else."""
    run = reducing(backend=backend)
    run(**_vectors())
    if distributed.rank() == 1:
        time.sleep(3 * SHORT)
    else:
        run(**_vectors())


def dies(backend: str) -> None:
    """One replica's process ends without a word; a thread raises."""
    run = reducing(backend=backend)
    run(**_vectors())
    if distributed.rank() == 1:
        if os.environ.get("REPLICA_PROCESS"):
            os._exit(3)
        raise RuntimeError("this replica has had enough")
    run(**_vectors())


def differs_at_first(backend: str) -> None:
    """One replica's layer has another size."""
    channels = 4 if distributed.rank() == 1 else 3
    reducing(backend=backend)(**_vectors(channels))


def differs_later(backend: str) -> None:
    """All replicas know both layers; one runs the other of them."""
    first, second = reducing("one", backend=backend), reducing("two", backend=backend)
    first(**_vectors())
    second(**_vectors())
    (second if distributed.rank() == 1 else first)(**_vectors())


def differs_in_kind(backend: str) -> None:
    """One replica gathers where the others reduce."""
    number = TensorProto.FLOAT
    gather = session(
        model(
            [node("AllGather", "m v n", "ms vs ns", group="world", layer="bn1")],
            {"m": number, "v": number, "n": TensorProto.INT64},
            {"ms": number, "vs": number, "ns": TensorProto.INT64},
        ),
        backend,
    )
    feeds = {"m": np.ones(3, np.float32), "v": np.ones(3, np.float32), "n": np.array(3, np.int64)}
    reduce = reducing(backend=backend)
    gather(**feeds)
    reduce(**_vectors())
    if distributed.rank() == 1:
        gather(**feeds)
    else:
        reduce(**_vectors())


def fails_for_good(backend: str) -> None:
    """What failed once does not start again, not even in another session."""
    try:
        differs_at_first(backend)
    except Exception:
        reducing("another", backend=backend)(**_vectors())


def module_steps(training_model: str, parallel: bool = False) -> dict[str, Any]:
    """A step of ONNX Runtime's training Module on a batch of this replica's own; the gradients that came of it."""
    from onnx_cbp.training import Artifacts, Trainer

    folder = Path(training_model).parent
    artifacts = Artifacts(Path(training_model), folder / "checkpoint", folder / "optimizer_model.onnx")
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4
    if parallel:
        session_options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    onnx_cbp.register(session_options, "native")
    trainer = Trainer.load(artifacts, session_options)
    for _ in range(2):
        trainer.forward_backward(module_batch(training_model, distributed.rank()))
    return {name: value.tolist() for name, value in trainer.gradients().items()}


def module_batch(training_model: str, rank: int) -> list[np.ndarray]:
    """A batch for a sample model: samples and labels."""
    x, labels = onnx.load(training_model).graph.input[:2]
    rng = np.random.default_rng(rank)
    shapes = [[d.dim_value or 6 for d in value.type.tensor_type.shape.dim] for value in (x, labels)]
    return [rng.normal(size=shapes[0]).astype(np.float32), rng.integers(0, 2, shapes[1])]


#: numpy reads the header of an array with Python's own parser, and two threads in that of Python 3.11 can end in
#: "SystemError: AST constructor recursion depth mismatch".
_READING = threading.Lock()


def follows_steps(tasks: list[dict[str, str]]) -> None:
    """Follow the records of several models, one after the other."""
    for task in tasks:
        _follows_record(**task)


def _follows_record(training_model: str, record: str, results: str) -> None:
    """Take each step of a record from the state that it had there, on this replica's part of its batch.

    The files are numpy's. Results: of each step all outputs, the gradients and the state after it.
    """
    from onnx_cbp.training import Artifacts, Trainer

    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4
    session_options.intra_op_num_threads = 1
    onnx_cbp.register(session_options, "native")
    artifacts = Artifacts(Path(training_model), Path(record).parent / "checkpoint", None)
    trainer = Trainer.load(artifacts, session_options)
    rank = distributed.rank()
    found: dict[str, np.ndarray] = {}
    with _READING, np.load(record) as file:
        recorded = dict(file)
    for step in range(int(recorded["steps"])):
        first, last = recorded[f"{step}/bounds"][rank : rank + 2]
        every = [recorded[f"{step}/input/{i}"] for i in range(int(recorded["inputs"]))]
        trainer.set_values(_under(recorded, f"{step}/state/"))
        trainer.module.train()
        trainer.module.lazy_reset_grad()
        if first < last:
            outputs = trainer.module(*(value[first:last] for value in every))
        else:
            with distributed.without_samples():  # what is fed instead must not matter
                outputs = trainer.module(*(value[:1] for value in every))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        kept = {f"{step}/output/{i}": np.asarray(value) for i, value in enumerate(outputs)}
        kept |= {f"{step}/gradient/{name}": value for name, value in trainer.gradients().items()}
        found |= kept | {f"{step}/after/{name}": value for name, value in trainer.values().items()}
    np.savez(Path(results) / f"{rank}.npz", **found)


def trains_together(folders: list[str]) -> dict[str, dict[str, Any]]:
    """Train with artifacts of our builder; by folder, the losses and then all values.

    Each folder also has data.npz: arrays x and labels [steps, batch, ...], and bounds, between which the samples of a
    replica are.
    """
    return {folder: steps_on_a_part(Path(folder), distributed.rank()) for folder in folders}


def steps_on_a_part(folder: Path, rank: int | None) -> dict[str, Any]:
    """The steps of `trains_together` on the part of one replica, or on whole batches."""
    from onnx_cbp.training.api import CheckpointState, Module, Optimizer

    state = CheckpointState.load_checkpoint(folder / "checkpoint")
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = 1
    module = Module(folder / "training_model.onnx", state, session_options=session_options)
    optimizer = Optimizer(folder / "optimizer_model.onnx", module)
    optimizer.set_learning_rate(0.05)
    with _READING, np.load(folder / "data.npz") as file:
        data = dict(file)
    part = slice(None) if rank is None else slice(*data["bounds"][rank : rank + 2])
    losses = []
    for x, labels in zip(data["x"], data["labels"], strict=True):
        losses.append(float(module(x[part], labels[part])))
        optimizer.step()
        module.lazy_reset_grad()
    return {"losses": losses, "values": {name: np.array(p.data).tolist() for name, p in state.parameters}}


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


SCENARIOS: dict[str, Callable[..., Any]] = {
    scenario.__name__: scenario
    for scenario in (
        trains,
        counts,
        buckets,
        stalls,
        dies,
        differs_at_first,
        differs_later,
        differs_in_kind,
        fails_for_good,
        module_steps,
        follows_steps,
        trains_together,
    )
}


def outcome(scenario: str, options: dict[str, Any]) -> dict[str, Any]:
    """What came of a scenario in this replica: its result, or its error, and the seconds it took."""
    start = time.monotonic()
    try:
        found: dict[str, Any] = {"result": SCENARIOS[scenario](**options)}
    except Exception as error:
        found = {"error": str(error)}
    return {**found, "seconds": time.monotonic() - start}


# Engines.


def start(
    engine: str,
    scenario: str,
    replicas: int,
    folder: Path,
    *,
    timeout: float = PATIENCE,
    groups: dict[str, list[list[int]]] | None = None,
    absent: int | None = None,
    **options: Any,
) -> dict[int, dict[str, Any]]:
    """Run a scenario in replicas; the outcomes by rank, of those that have one.

    Args:
        engine: "threads", "mpi" or "torch".
        scenario: its name.
        replicas: how many.
        folder: for files.
        timeout: of the collectives.
        groups: as `initialize` takes them.
        absent: the rank of a replica that never joins.
        options: of the scenario.
    """
    if engine == "threads":
        return _start_threads(scenario, replicas, timeout, groups, options)
    told = {"timeout": timeout, "groups": groups, "absent": absent, "options": options}
    command = [sys.executable, __file__, engine, scenario, json.dumps(told), str(folder)]
    environment = {**os.environ, "REPLICA_PROCESS": "1", "OMP_NUM_THREADS": "1", "REPLICA_COUNT": str(replicas)}
    launcher = [mpiexec(), "-n", str(replicas)] if engine == "mpi" else []
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [*launcher, *command], env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(LIMIT)
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of them have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.seek(0)
            print(log.read())  # pytest shows it where the test fails
    return {int(file.stem): json.loads(file.read_text()) for file in folder.glob("*.json")}


def mpiexec() -> str | None:
    """MPI's launcher: that of this environment, or of the system."""
    return shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


class _HadEnoughError(Exception):
    """What a replica dies of."""


def _start_threads(
    scenario: str, replicas: int, timeout: float, groups: dict[str, list[list[int]]] | None, options: dict[str, Any]
) -> dict[int, dict[str, Any]]:
    outcomes: dict[int, dict[str, Any]] = {}

    def replicate() -> None:
        outcomes[distributed.rank()] = found = outcome(scenario, options)
        if "enough" in found.get("error", ""):
            raise _HadEnoughError(found["error"])  # the death that others are to hear of

    with contextlib.suppress(_HadEnoughError):
        distributed.run_replicas(replicate, replicas, timeout=timeout, groups=groups)
    return outcomes


def _main() -> None:
    engine, scenario, told, folder = sys.argv[1:]
    if engine == "mpi":
        from mpi4py import MPI

        _replicate(engine, scenario, json.loads(told), folder, MPI.COMM_WORLD.rank, {})
        return
    import torch.distributed  # noqa: F401 once, for all replicas: it takes seconds

    size = int(os.environ["REPLICA_COUNT"])
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            where = {"rank": rank, "world_size": size, "init_method": f"file://{folder}/store"}
            _replicate(engine, scenario, json.loads(told), folder, rank, where)
            return
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def _replicate(engine: str, scenario: str, told: dict[str, Any], folder: str, rank: int, where: dict[str, Any]) -> None:
    """Be one replica, and write down what came of it."""
    if rank == told["absent"]:
        time.sleep(3 * SHORT)
        os._exit(0)
    start = time.monotonic()
    try:
        distributed.initialize(engine, timeout=told["timeout"], groups=told["groups"], **where)
    except onnx_cbp.OnnxCbpError as error:
        found = {"error": str(error), "seconds": time.monotonic() - start}
    else:
        found = outcome(scenario, told["options"])
    file = Path(folder) / f"{rank}.part"
    file.write_text(json.dumps(found))
    file.rename(file.with_suffix(".json"))
    distributed.finalize()


if __name__ == "__main__":
    _main()
