"""Trains the sample ResNet on handwritten digits in 2 and in 4 processes, each with a part of every batch.

Run it from anywhere as `python examples/digits_distributed.py`, in an environment that has the package with the extras
`training`, `mpi` and `demo`: pip install '.[training,mpi,demo]'. It starts the processes itself, with MPI's launcher,
prints one table and writes the loss curves as a PNG. One process with the whole batches, on the original graph, is what
the others are held against.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from digits_ort_training import COMPARED_STEPS, GRADIENT_BOUND
from handwritten import BATCH, LEARNING_RATE, MODEL, Digits, Run, check_extras, learning_rate, one_line_errors, png
from rich.console import Console
from rich.table import Table

import onnx_cbp
from onnx_cbp import distributed
from onnx_cbp.distributed.lifecycle import ENGINE_VARIABLE
from onnx_cbp.training import Artifacts, Trainer, load_api
from onnx_cbp.training.compare import gradient_differences

PROCESSES = (2, 4)


def shard(batch: tuple[np.ndarray, ...], rank: int, replicas: int) -> tuple[np.ndarray, ...]:
    """A replica's part of a batch. Rank r has r + 1 times as many samples as rank 0: equal parts would be too easy."""
    size = len(batch[0])
    ends = [round(size * (r * (r + 1)) / (replicas * (replicas + 1))) for r in range(replicas + 1)]
    return tuple(value[ends[rank] : ends[rank + 1]] for value in batch)


def train(run: Run, batches: list[tuple[np.ndarray, ...]]) -> None:
    """The training loop: the same for one process and for a replica of many."""
    for index, batch in enumerate(batches):
        run.step(batch, learning_rate(index, len(batches)))


def options(threads: int) -> Any:
    """Session options with the ops registered. This makes the process a replica where the environment says so."""
    import onnxruntime

    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    onnx_cbp.register(made)
    return made


def record_steps(batches: list[tuple[np.ndarray, ...]], threads: int) -> dict[str, np.ndarray]:
    """The first steps of one process: the states before them, and what came of them."""
    trainer = Trainer.load(Artifacts.in_folder(MODEL), options(threads))
    trainer.optimizer.set_learning_rate(LEARNING_RATE)
    record: dict[str, np.ndarray] = {}
    for step, batch in enumerate(batches[:COMPARED_STEPS]):
        record |= {f"{step}/before/{name}": value for name, value in trainer.values().items()}
        record[f"{step}/loss"] = np.array(trainer.forward_backward(batch))
        record |= {f"{step}/gradient/{name}": value for name, value in trainer.gradients().items()}
        record |= {f"{step}/after/{n}": v for n, v in trainer.values().items() if "running" in n}
        trainer.optimizer.step()
    return record


def follow_steps(trainer: Trainer, batches: list[tuple[np.ndarray, ...]], record: Any) -> dict[str, Any]:
    """The same steps in this replica, each from the state that one process had: the largest differences."""

    def recorded(step: int, kind: str) -> dict[str, np.ndarray]:
        prefix = f"{step}/{kind}/"
        return {name.removeprefix(prefix): record[name] for name in record.files if name.startswith(prefix)}

    losses, gradients, statistics = [], [], []
    for step, batch in enumerate(batches[:COMPARED_STEPS]):
        trainer.set_values(recorded(step, "before"))
        loss = float(record[f"{step}/loss"])
        losses.append(abs(trainer.forward_backward(batch) / loss - 1))
        gradients.append(max(gradient_differences(recorded(step, "gradient"), trainer.gradients()).values()))
        statistics.append(max(gradient_differences(recorded(step, "after"), trainer.values()).values()))
    return {"loss": max(losses), "gradients": gradients, "statistics": max(statistics)}


def replica(folder: Path, epochs: int, seed: int) -> None:
    """What one of the processes does; rank 0 writes down what came of it."""
    artifacts = dataclasses.replace(Artifacts.in_folder(MODEL), training_model=folder / "rewritten.onnx")
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["REPLICAS"]))
    session_options = options(threads)
    digits = Digits.load(seed)
    rank, replicas = distributed.rank(), distributed.world_size()
    batches = [shard(batch, rank, replicas) for batch in digits.batches(epochs, seed)]
    with np.load(folder / "record.npz") as record:
        differences = follow_steps(Trainer.load(artifacts, session_options), batches, record)
    run = Run(Trainer.load(artifacts, session_options))
    train(run, batches)
    if rank == 0:
        result = {"losses": run.losses, "seconds": run.seconds, "accuracy": run.accuracy(digits.test), **differences}
        (folder / f"{replicas}.json").write_text(json.dumps(result))
    distributed.finalize()


def launch(replicas: int, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Start the processes and wait for what rank 0 has to say."""
    command = [sys.executable, __file__, "--replica", str(folder), "--epochs", str(epochs), "--seed", str(seed)]
    environment = {**os.environ, ENGINE_VARIABLE: "mpi", "REPLICAS": str(replicas)}
    ended = subprocess.run([launcher(), "-n", str(replicas), *command], env=environment, capture_output=True, text=True)
    result = folder / f"{replicas}.json"
    if ended.returncode or not result.exists():
        reason = next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "no word from rank 0")
        raise onnx_cbp.OnnxCbpError(f"{replicas} processes under MPI failed: {reason}")
    return json.loads(result.read_text())


def launcher() -> str:
    """MPI's launcher: that of this environment, or of the system."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which("mpiexec", path=path)
    if found is None or importlib.util.find_spec("mpi4py") is None:
        raise onnx_cbp.OnnxCbpError("no mpi4py, or no mpiexec: pip install '.[training,mpi,demo]'")
    return found


def show(results: dict[str, dict[str, Any]], steps: int) -> Table:
    """The one table."""
    table = Table(title=f"{MODEL.name}: {steps} steps of {BATCH} digits, in parts of unequal size")
    table.add_column("", overflow="fold")
    for name in results:
        table.add_column(name, justify="right")
    every = results.values()
    for label, value in (
        ("loss at the start", lambda r: f"{r['losses'][0]:.6f}"),
        ("loss at the end (mean of the last 20 steps)", lambda r: f"{np.mean(r['losses'][-20:]):.4f}"),
        ("test accuracy", lambda r: f"{r['accuracy']:.1%}"),
        ("time a step, median", lambda r: f"{np.median(r['seconds']) * 1e3:.2f} ms"),
    ):
        table.add_row(label, *(value(result) for result in every))
    table.add_section()
    table.add_row(f"largest one-step difference, {min(steps, COMPARED_STEPS)} steps*")
    for label, value in (
        ("  loss", lambda r: f"{r['loss']:.1e}"),
        ("  gradients, the worst step", lambda r: f"{max(r['gradients']):.1e}"),
        ("  gradients, the median step", lambda r: f"{np.median(r['gradients']):.1e}"),
        ("  running statistics", lambda r: f"{r['statistics']:.1e}"),
    ):
        table.add_row(label, *(value(result) if "gradients" in result else "" for result in every))
    table.caption = (
        "* From the state that one process had, which trains the original graph on the whole batch; relative to the "
        "loss and to the largest element of each tensor. Where there are more processes than cores "
        f"({os.cpu_count()} here), steps take longer."
    )
    above = max(sum(value > GRADIENT_BOUND for value in result.get("gradients", ())) for result in every)
    if above:
        table.caption += (
            f" Up to {above} of the steps are above {GRADIENT_BOUND:.0e}. One ReLU whose input is within rounding of "
            "zero, and passes in one of them only, can do that; so can moving the weights by one ulp."
        )
    table.caption_justify = "left"
    return table


def plot(results: dict[str, dict[str, Any]], output: Path) -> None:
    """The loss curves as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (name, result) in enumerate(results.items()):
        axes.plot(result["losses"], label=name, lw=4 - 1.4 * number, alpha=0.4 + 0.3 * number)
    axes.set(
        xlabel="step", ylabel="training loss", yscale="log", title=f"{MODEL.name}: handwritten digits, by processes"
    )
    axes.legend()
    figure.savefig(output, dpi=120)


@click.command()
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of split and batches.")
@click.option(
    *("--output-name", "output"),
    default="demo-distributed.png",
    show_default=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=png,
    help="Where the loss curves go.",
)
@click.option("--replica", "folder", type=click.Path(path_type=Path), hidden=True, help="Be one of the processes.")
def main(epochs: int, seed: int, output: Path, folder: Path | None) -> None:
    """Train in 2 and in 4 processes, and hold them against one with the whole batch."""
    with one_line_errors():
        if folder is not None:
            replica(folder, epochs, seed)
        else:
            demonstrate(epochs, seed, output)


def demonstrate(epochs: int, seed: int, output: Path) -> None:
    """Train one process, then more of them; print the table and write the curves."""
    check_extras("training,mpi,demo")
    load_api()
    launcher()
    console = Console()
    digits = Digits.load(seed)
    batches = digits.batches(epochs, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rewritten = onnx_cbp.rewrite(MODEL / "training_model.onnx", synchronize=True, data_parallel=True)
        onnx.save(rewritten, folder / "rewritten.onnx")
        with console.status("one process"):
            np.savez(folder / "record.npz", **record_steps(batches, threads=0))
            run = Run(Trainer.load(Artifacts.in_folder(MODEL)))
            train(run, batches)
        accuracy = run.accuracy(digits.test)
        results = {"one process": {"losses": run.losses, "seconds": run.seconds, "accuracy": accuracy}}
        for replicas in PROCESSES:
            with console.status(f"{replicas} processes"):
                results[f"{replicas} processes"] = launch(replicas, folder, epochs, seed)
    console.print(show(results, len(batches)))
    plot(results, output)
    console.print(f"loss curves: {output}")


if __name__ == "__main__":
    main()
