"""A process that trains one network with one library; a worker as onnx_cbp/bench/worker.py is.

python worker.py onnx_cbp | torch | onnxruntime-training | onnxsim
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "models"))  # a PyTorch module is read with its class

from onnx_cbp.bench.training_steps.step_worker import resident_peak
from onnx_cbp.bench.worker import Commands, Prepared, commands, serve, sleep_until_idle

RATE = 0.05


def _batch(task: dict[str, Any]) -> list[np.ndarray]:
    return [np.load(Path(task["folder"]) / f"{name}.npy") for name in ("x", "labels")]


def _keeping_losses(step: Any) -> Prepared:
    losses: list[float] = []

    def run(runs: int) -> None:
        losses.extend(float(step()) for _ in range(runs))

    return Prepared(run, lambda: {"losses": np.array(losses)})


@contextmanager
def _no_library() -> Iterator[None]:
    """As where the library is not installed: with it, a session runs its kernels, and no function body."""
    with patch("onnx_cbp.custom_ops.library._FILE_NAME", "not-here.so"):
        yield


def _onnx_cbp(task: dict[str, Any], threads: int) -> Prepared:
    import onnxruntime

    from onnx_cbp.training import Artifacts, Trainer, generate_artifacts
    from onnx_cbp.training.optimizers import SGD

    folder = Path(task["folder"]) / ("portable" if task["portable"] else "native")
    if not folder.exists():
        folder.mkdir()
        generate_artifacts(
            folder.parent / "forward.onnx",
            loss="CrossEntropyLoss",
            optimizer=SGD(),
            artifact_directory=folder,
            rewrite_options={"portable": task["portable"]},
            builder="onnx_cbp",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with _no_library() if task["portable"] else nullcontext():
        trainer = Trainer.load(Artifacts.in_folder(folder), options)
    trainer.optimizer.set_learning_rate(RATE)
    batch = _batch(task)
    return _keeping_losses(lambda: trainer.step(batch))


def _torch(task: dict[str, Any], threads: int) -> Prepared:
    import torch

    torch.set_num_threads(threads)
    module = torch.load(Path(task["folder"]) / "module.pt", weights_only=False).train()
    optimizer = torch.optim.SGD(module.parameters(), RATE)
    x, labels = (torch.from_numpy(a) for a in _batch(task))

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return _keeping_losses(step)


def _onnxruntime_training(task: dict[str, Any], threads: int) -> Prepared:
    import onnx
    import onnxruntime
    from onnxruntime.training import api, artifacts, onnxblock

    onnxruntime.set_default_logger_severity(4)
    model = onnx.load(Path(task["folder"]) / "forward.onnx")
    folder = Path(task["folder"]) / "onnxruntime-training"
    folder.mkdir(exist_ok=True)
    statistics = {i for node in model.graph.node if node.op_type == "BatchNormalization" for i in node.input[3:5]}
    names = [t.name for t in model.graph.initializer if t.name not in statistics]

    class Loss(onnxblock.loss.CrossEntropyLoss):
        """Its labels have the shape that the loss reads."""

        def build(self, scores: str, labels_name: str = "labels") -> str:
            loss = super().build(scores, labels_name)
            values = {v.name: v for v in (*self.base.graph.input, *self.base.graph.output)}
            shape = values[labels_name].type.tensor_type.shape
            shape.CopyFrom(values[scores].type.tensor_type.shape)
            del shape.dim[1]
            return loss

    artifacts.generate_artifacts(
        model, requires_grad=names, loss=Loss(), optimizer=artifacts.OptimType.SGD, artifact_directory=str(folder)
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = api.Module(str(folder / "training_model.onnx"), state, session_options=options)
    optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(RATE)
    x, labels = _batch(task)
    module.train()

    def step() -> float:
        loss = module(x, labels)
        optimizer.step()
        module.lazy_reset_grad()
        return float(loss)

    return _keeping_losses(step)


def _onnxsim(task: dict[str, Any], threads: int) -> Prepared:
    import onnx
    import onnxsim

    # It takes no session options: the number of its threads is that of the cores it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    model = onnx.load(Path(task["folder"]) / "static_with_loss.onnx")
    weights = [t.name for t in model.graph.initializer if t.name.endswith(("weight", "bias"))]
    loop = onnxsim.compile_training_loop(model, "loss", weights, optimizer="sgd_momentum")
    x, labels = _batch(task)
    feeds = {"x": x, "chosen": -np.eye(10, dtype=np.float32)[labels] / len(labels)}
    return _keeping_losses(lambda: loop(feeds, lr=RATE))


_PREPARE = {
    "onnx_cbp": _onnx_cbp,
    "torch": _torch,
    "onnxruntime-training": _onnxruntime_training,
    "onnxsim": _onnxsim,
}


def main(library: str) -> None:
    """Answer commands until stdin ends."""
    prepared: dict[str, Prepared] = {}
    known: Commands = commands(_PREPARE[library], prepared)

    def seconds(command: dict[str, Any]) -> dict[str, Any]:
        clock = time.process_time if command["id"] == "1" else time.perf_counter
        start = clock()
        prepared[command["id"]].run(command["runs"])
        taken = (clock() - start) / command["runs"]
        sleep_until_idle()
        return {"seconds": taken}

    known["time"] = seconds
    known["memory"] = lambda command: resident_peak(command, prepared)
    serve(dict, known)


if __name__ == "__main__":
    main(sys.argv[1])
