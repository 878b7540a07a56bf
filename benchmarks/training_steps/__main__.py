"""Training steps on stock ONNX Runtime against PyTorch's and others', own processes, in turn.

    python benchmarks/training_steps [NETWORK ...] [--threads 1 --threads 2] [--rounds 9] [--json FILE]
        [--ort-training PYTHON] [--onnxsim PYTHON]

Forward, backward, SGD and the loss as a number, of the same weights and batch. With one thread the seconds are those
of the processor, which others on the machine hardly change; with more they are the clock's. Needs PyTorch.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from networks import NETWORKS, Network
from rich.console import Console
from rich.table import Table

from onnx_cbp.bench.results import machine
from onnx_cbp.bench.rounds import Candidate, take_rounds
from onnx_cbp.bench.runtimes import Runtime, Worker, WorkerError

_WORKER = Path(__file__).parent / "worker.py"
#: Losses of the first steps differ by no more, relative to the first.
_TOLERANCE = 2e-3
_STEPS_TO_THE_PEAK = 3


def _export(network: Network, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    module = network.make().train()
    x = torch.randn(network.x)
    np.save(folder / "x.npy", x.numpy())
    np.save(folder / "labels.npy", torch.randint(network.classes, network.labels).numpy())
    torch.save(module, folder / "module.pt")
    start = {name: value.detach().clone() for name, value in module.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            str(folder / "forward.onnx"),
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            opset_version=17,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
        )
    model = onnx.load(folder / "forward.onnx")
    for tensor in model.graph.initializer:  # exporting in training mode moves running statistics
        if tensor.name in start:
            tensor.CopyFrom(onnx.numpy_helper.from_array(start[tensor.name].numpy(), tensor.name))
    onnx.save(model, folder / "forward.onnx")


def _static_with_loss(network: Network, folder: Path) -> None:
    """The same graph with sizes for symbols and the cross entropy of ops that onnxsim differentiates.

    It is fed -1/N at each sample's class.
    """
    model = onnx.load(folder / "forward.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = network.x[0]
    for value in (*model.graph.value_info, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = network.x[0]
    helper, types = onnx.helper, onnx.TensorProto
    logits = model.graph.output[0].name
    classes = [network.x[0], network.classes]
    model.graph.input.append(helper.make_tensor_value_info("chosen", types.FLOAT, classes))
    axes = onnx.numpy_helper.from_array(np.array([0, 1], np.int64), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.extend(
        [
            helper.make_node("Softmax", [logits], ["p"], axis=1),
            helper.make_node("Log", ["p"], ["log_p"]),
            helper.make_node("Mul", ["log_p", "chosen"], ["terms"]),
            helper.make_node("ReduceSum", ["terms", "axes"], ["loss"], keepdims=0),
        ]
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("loss", types.FLOAT, []))
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "static_with_loss.onnx")


@click.command(help=__doc__)
@click.argument("networks", nargs=-1, type=click.Choice(list(NETWORKS)))
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--ort-training", metavar="PYTHON", help="with onnxruntime-training and this package")
@click.option("--onnxsim", metavar="PYTHON", help="with onnxsim, onnxruntime and this package")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    networks: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    seed: int,
    ort_training: str | None,
    onnxsim: str | None,
    json_file: Path | None,
) -> None:
    """Measure and print."""
    on, rows = machine(), []
    for name in networks or NETWORKS:
        network = NETWORKS[name]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            _export(network, folder, seed)
            kinds = [
                ("ours", Runtime("ours", sys.executable, "onnx_cbp"), False),
                ("ours, bodies", Runtime("ours, bodies", sys.executable, "onnx_cbp"), True),
                ("PyTorch", Runtime("PyTorch", sys.executable, "torch"), False),
            ]
            if ort_training:
                kinds.append(("ORT training", Runtime("training", ort_training, "onnxruntime-training"), False))
            if onnxsim:
                _static_with_loss(network, folder)
                kinds.append(("onnxsim", Runtime("onnxsim", onnxsim, "onnxsim"), False))
            for count in threads:
                rows += _measure(name, folder, kinds, count, rounds)
    _print(rows)
    if json_file:
        json_file.write_text(json.dumps({"machine": on, "seed": seed, "results": rows}, indent=1), encoding="utf-8")


def _measure(name: str, folder: Path, kinds: list, threads: int, rounds: int) -> list[dict]:
    id, rows, candidates = str(threads), [], []
    with ExitStack() as stack:
        for kind, runtime, portable in kinds:
            row = {"network": name, "threads": threads, "kind": kind, "missing": None}
            rows.append(row)
            task = {"folder": str(folder), "portable": portable}
            try:
                with Worker(runtime, _WORKER, {}) as alone:
                    alone.ask("prepare", id=id, threads=threads, task=task)
                    memory = alone.ask("memory", id=id, runs=_STEPS_TO_THE_PEAK)
                    losses = Candidate(alone, id).outputs(folder)["losses"]
                row["peak_bytes"] = int(memory["peak"]) - int(memory["before"])
                row["losses"] = losses.tolist()
                if not np.allclose(losses, rows[0]["losses"], rtol=0, atol=_TOLERANCE * abs(losses[0])):
                    row["missing"] = f"its losses are {losses}, ours {rows[0]['losses']}"
                    continue
                worker = stack.enter_context(Worker(runtime, _WORKER, {}))
                worker.ask("prepare", id=id, threads=threads, task=task)
            except WorkerError as error:
                row["missing"] = str(error)
                continue
            candidates.append((row, Candidate(worker, id)))
        take_rounds([candidate for _, candidate in candidates], rounds, 0.5)
    for row, candidate in candidates:
        row |= candidate.times.as_dict()
    return rows


def _print(rows: list[dict]) -> None:
    table = Table("network", "threads", "who", "ms", "time over PyTorch's", "peak MB")
    for row in rows:
        peer = next(
            r
            for r in rows
            if (r["network"], r["threads"]) == (row["network"], row["threads"]) and r["kind"] == "PyTorch"
        )
        if row["missing"]:
            table.add_row(row["network"], str(row["threads"]), row["kind"], "-", row["missing"], "")
            continue
        seconds = row["median_s"]
        table.add_row(
            *(row["network"], str(row["threads"]), row["kind"], f"{1e3 * seconds:.1f}"),
            *(f"{seconds / peer.get('median_s', float('nan')):.2f}", f"{row['peak_bytes'] / 1e6:.0f}"),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
