"""Trains the sample ResNet on handwritten digits with plain onnxruntime, from its forward file to a deployed model.

Run it from anywhere as `python examples/digits.py`, in an environment that has the package with the extras `cpu` and
`demo`: pip install '.[cpu,demo]'. It prints one table and writes the loss curve as a PNG. Where this Python or the one
it was made from has PyTorch, PyTorch trains the same network from the same weights, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import onnx
from handwritten import MODEL, Digits, Run, Trained, check_extras, draw, learning_rate, one_line_errors, png, table
from rich.console import Console
from rich.progress import Progress

import onnx_cbp
from onnx_cbp.training import Artifacts, Trainer, generate_artifacts
from onnx_cbp.training.optimizers import AdamW

Batches = Sequence[tuple[np.ndarray, np.ndarray]]


def train(digits: Digits, batches: Batches, folder: Path, console: Console) -> tuple[Trained, float]:
    """Train with onnx-cbp; also the part of the test images that the deployed model classifies rightly."""
    import onnxruntime

    generate_artifacts(
        MODEL / "forward.onnx",
        loss="CrossEntropyLoss",
        optimizer=AdamW(),  # PyTorch's; "AdamW" by name is ONNX Runtime's
        artifact_directory=folder,
        additional_output_names=["logits"],
        builder="onnx_cbp",
    )
    run = Run(Trainer.load(Artifacts.in_folder(folder)))
    with Progress(console=console, transient=True) as progress:
        for index, batch in enumerate(progress.track(batches, description="training with onnx-cbp")):
            run.step(batch, learning_rate(index, len(batches)))
    result = Trained(f"onnxruntime {onnxruntime.__version__}", run.losses, run.seconds, run.accuracy(digits.test))
    deployed = folder / "deployed.onnx"
    run.trainer.module.export_model_for_inferencing(str(deployed), ["logits"])
    # A plain session, without a library of ours: this is what runs anywhere.
    session = onnxruntime.InferenceSession(str(deployed), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: digits.test[0]})
    return result, float((logits.argmax(1) == digits.test[1]).mean())


def train_in_pytorch(digits: Digits, batches: Batches, folder: Path, console: Console) -> Trained | None:
    """The same training in PyTorch; None where no Python at hand has it."""
    python = next((each for each in _interpreters() if _has_torch(each)), None)
    if python is None:
        return None
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(MODEL / "forward.onnx").graph.initializer
    }
    rates = [learning_rate(index, len(batches)) for index in range(len(batches))]
    images, labels = (np.stack(values) for values in zip(*batches, strict=True))
    np.savez(folder / "weights.npz", **weights)
    np.savez(folder / "data.npz", x=images, y=labels, rates=rates, x_test=digits.test[0], y_test=digits.test[1])
    worker = [python, str(Path(__file__).parent / "digits_pytorch.py"), str(folder)]
    with console.status("training with PyTorch"):
        done = subprocess.run(worker, capture_output=True, text=True)
    if done.returncode:
        raise onnx_cbp.OnnxCbpError(f"PyTorch's training failed: {(done.stderr.splitlines() or ['no word'])[-1]}")
    return Trained(**json.loads((folder / "pytorch.json").read_text()))


def _interpreters() -> list[str]:
    """This Python, and the one that its environment was made from."""
    return list(dict.fromkeys([sys.executable, getattr(sys, "_base_executable", sys.executable)]))


def _has_torch(python: str) -> bool:
    find = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, ('torch', 'numpy'))))"
    return subprocess.run([python, "-c", find], capture_output=True).returncode == 0


@click.command()
@click.option("--epochs", default=20, show_default=True, type=click.IntRange(1))
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of the split and of the batches.",
)
@click.option(
    "--output",
    default="demo.png",
    show_default=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=png,
    help="Where the loss curves go.",
)
@click.option("--json", "document", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Results too.")
def main(epochs: int, seed: int, output: Path, document: Path | None) -> None:
    """Train a forward ONNX file on handwritten digits and deploy it."""
    with one_line_errors():
        demonstrate(epochs, seed, output, document)


def demonstrate(epochs: int, seed: int, output: Path, document: Path | None) -> None:
    """Train, deploy, print the table and write the curves."""
    check_extras("cpu,demo")
    console = Console()
    digits = Digits.load(seed)
    batches = digits.batches(epochs, seed)
    with tempfile.TemporaryDirectory() as folder:
        ours, deployed = train(digits, batches, Path(folder), console)
        theirs = train_in_pytorch(digits, batches, Path(folder), console)
    trained = [ours] if theirs is None else [ours, theirs]
    console.print(table(trained, ("test accuracy of the deployed model", f"{deployed:.1%}")))
    if theirs is None:
        console.print("PyTorch is not here to train beside it: pip install torch, and run this again, to compare.")
    draw({each.runtime: each.losses for each in trained}, output)
    console.print(f"loss curves: {output}")
    if document is not None:
        document.write_text(json.dumps({"deployed": deployed, "trained": [asdict(each) for each in trained]}))


if __name__ == "__main__":
    main()
