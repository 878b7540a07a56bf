"""What the examples that learn handwritten digits share: the data, a training that is timed, and the curves."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from rich.table import Table

import onnx_cbp
from onnx_cbp.training import Trainer

MODEL = Path(__file__).parent.parent / "models" / "resnet_digits"
LEARNING_RATE = 2e-3
BATCH = 64


@dataclass
class Digits:
    """Handwritten digits: float [N, 1, 8, 8] in [0, 1] and int64 labels [N]."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @classmethod
    def load(cls, seed: int) -> Digits:
        """Split scikit-learn's digits, a quarter of them for the test."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        data = load_digits()
        images = (data.images[:, None] / 16).astype(np.float32)
        labels = data.target.astype(np.int64)
        x, x_test, y, y_test = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
        return cls((x, y), (x_test, y_test))

    def batches(self, epochs: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Shuffled batches of all epochs; what does not fill a batch waits for the next epoch."""
        x, y = self.train
        return [(x[order], y[order]) for order in self.orders(epochs, seed)]

    def orders(self, epochs: int, seed: int) -> list[np.ndarray]:
        """Which images each of these batches has."""
        rng = np.random.default_rng(seed)
        count = len(self.train[0])
        orders = [rng.permutation(count) for _ in range(epochs)]
        return [order[start : start + BATCH] for order in orders for start in range(0, count - BATCH + 1, BATCH)]


@dataclass
class Run:
    """A training, with the loss and the seconds of each step."""

    trainer: Trainer
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def step(self, batch: tuple[np.ndarray, np.ndarray], learning_rate: float) -> None:
        """One step of training, timed."""
        self.trainer.optimizer.set_learning_rate(learning_rate)
        start = time.perf_counter()
        self.losses.append(self.trainer.step(batch))
        self.seconds.append(time.perf_counter() - start)

    def accuracy(self, test: tuple[np.ndarray, np.ndarray]) -> float:
        """Part of the test images that the evaluation graph, with its running statistics, classifies rightly."""
        self.trainer.module.eval()
        _, logits = self.trainer.module(*test)
        return float((logits.argmax(1) == test[1]).mean())


@dataclass
class Trained:
    """What came of one training."""

    runtime: str
    losses: list[float]
    seconds: list[float]
    accuracy: float


def table(trained: Sequence[Trained], *more: Sequence[str]) -> Table:
    """The one table, a column for each training; `more` are rows under it."""
    result = Table(title=f"{MODEL.name}: {len(trained[0].losses)} steps of {BATCH} digits, AdamW")
    result.add_column("", overflow="fold")
    for each in trained:
        result.add_column(each.runtime, justify="right")
    for label, value in (
        ("loss at the start", lambda each: f"{each.losses[0]:.6f}"),
        ("loss at the end (mean of the last 20 steps)", lambda each: f"{np.mean(each.losses[-20:]):.4f}"),
        ("test accuracy", lambda each: f"{each.accuracy:.1%}"),
        ("time a step, median", lambda each: f"{np.median(each.seconds) * 1e3:.2f} ms"),
    ):
        result.add_row(label, *(value(each) for each in trained))
    for row in more:
        result.add_row(*row)
    return result


def learning_rate(index: int, steps: int) -> float:
    """It falls to zero: the training settles, and the accuracy does not hang on the noise of the last steps."""
    return LEARNING_RATE * (1 - index / steps)


def draw(curves: Mapping[str, Sequence[float]], output: Path) -> None:
    """The loss curves as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for index, (name, losses) in enumerate(curves.items()):
        style = {"lw": 1.2, "color": "black", "zorder": 3} if not index else {"lw": 4, "alpha": 0.4}
        axes.plot(losses, label=name, **style)
    axes.set(xlabel="step", ylabel="training loss", yscale="log", title=f"{MODEL.name}: handwritten digits")
    axes.legend()
    figure.savefig(output, dpi=120)


def check_extras(extras: str) -> None:
    """Say what is not installed before anything runs, not when it is first used."""
    for name in ("sklearn", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise onnx_cbp.OnnxCbpError(f"no module '{name}': pip install '.[{extras}]'")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Show an error of onnx-cbp as the command line does: one line, exit status 2."""
    try:
        yield
    except onnx_cbp.OnnxCbpError as error:
        failure = click.ClickException(str(error))
        failure.exit_code = 2
        raise failure from error


def png(context: click.Context, parameter: click.Parameter, value: Path) -> Path:
    """Refuse before the training what could not be written after it."""
    if value.suffix.lower() != ".png":
        raise click.BadParameter(f"'{value}' does not end in .png", context, parameter)
    if not os.access(value.absolute().parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"the folder of '{value}' does not exist or cannot be written", context, parameter)
    return value
