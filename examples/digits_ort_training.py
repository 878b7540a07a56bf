"""Trains the sample ResNet with ONNX Runtime's training build, the original training graph against the rewritten one.

Run it from anywhere as `python examples/digits_ort_training.py`, in an environment that has the package with the extras
`training` and `demo`: pip install '.[training,demo]'. It prints one table and writes the two loss curves as a PNG.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
from handwritten import (
    BATCH,
    LEARNING_RATE,
    MODEL,
    Digits,
    Run,
    check_extras,
    draw,
    learning_rate,
    one_line_errors,
    png,
)
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import onnx_cbp
from onnx_cbp.training import Artifacts, StepDifferences, Trainer, compare_steps, load_api

COMPARED_STEPS = 20
#: What rounding alone does to a gradient stays below this; see `StepDifferences.by_step` for what does not.
GRADIENT_BOUND = 5e-5


def trainers(folder: Path) -> tuple[Trainer, Trainer]:
    """The original and the rewritten training graph, both from the same checkpoint."""
    import onnxruntime

    original = Artifacts.in_folder(MODEL)
    rewritten = dataclasses.replace(original, training_model=folder / "rewritten.onnx")
    onnx.save(onnx_cbp.rewrite(original.training_model), rewritten.training_model)
    options = onnxruntime.SessionOptions()
    onnx_cbp.register(options)
    return Trainer.load(original), Trainer.load(rewritten, options)


def train(runs: dict[str, Run], batches: list[tuple[np.ndarray, np.ndarray]], console: Console) -> None:
    """Train all runs side by side, a step of one after a step of the other, so that both see the same machine."""
    in_turn = list(runs.values())
    with Progress(console=console, transient=True) as progress:
        for index, batch in enumerate(progress.track(batches, description="training both")):
            in_turn.reverse()  # the second to run finds the batch in the cache: each is second every other time
            for run in in_turn:
                run.step(batch, learning_rate(index, len(batches)))


def show(runs: dict[str, Run], differences: StepDifferences, test: tuple[np.ndarray, np.ndarray]) -> Table:
    """The one table."""
    table = Table(title=f"{MODEL.name}: {len(next(iter(runs.values())).losses)} steps of {BATCH} digits")
    table.add_column("", overflow="fold")
    for name in runs:
        table.add_column(name, justify="right")
    for label, value in (
        ("loss at the start", lambda run: f"{run.losses[0]:.4f}"),
        ("loss at the end (mean of the last 20 steps)", lambda run: f"{np.mean(run.losses[-20:]):.4f}"),
        ("test accuracy", lambda run: f"{run.accuracy(test):.1%}"),
        ("time a step, median", lambda run: f"{np.median(run.seconds) * 1e3:.2f} ms"),
    ):
        table.add_row(label, *(value(run) for run in runs.values()))
    table.add_section()
    worst = max(differences.gradients, key=lambda name: differences.gradients[name])
    table.add_row(f"largest one-step difference, {len(differences.by_step)} steps*")
    table.add_row("  loss", "", f"{differences.loss:.1e}")
    for step, value in (("worst", differences.largest_gradient), ("median", np.median(differences.by_step))):
        table.add_row(f"  {len(differences.gradients)} gradients, the {step} step", "", f"{value:.1e}")
    table.add_row(f"  {len(differences.statistics)} running statistics", "", f"{differences.largest_statistic:.1e}")
    table.caption = (
        "* Both take each step from the original's state; relative to the loss and to the largest element of each "
        f"tensor. Worst gradient: {worst}."
    )
    above = sum(value > GRADIENT_BOUND for value in differences.by_step)
    if above:
        # Not hidden in the median: some seeds have such steps, and a reader has to know what they can be.
        table.caption += (
            f" {above} of the steps are above {GRADIENT_BOUND:.0e}. One ReLU whose input is within rounding of zero, "
            "and passes in one graph only, can do that; so can moving the original's own weights by one ulp."
        )
    table.caption_justify = "left"
    return table


@click.command()
@click.option("--epochs", default=20, show_default=True, type=click.IntRange(1))
@click.option(
    *("--seed", "seed"),
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of the split and of the batches.",
)
@click.option(
    *("--output-name", "output"),
    default="demo.png",
    show_default=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=png,
    help="Where the loss curves go.",
)
def main(epochs: int, seed: int, output: Path) -> None:
    """Train the original and the rewritten graph on handwritten digits and compare them."""
    with one_line_errors():
        demonstrate(epochs, seed, output)


def demonstrate(epochs: int, seed: int, output: Path) -> None:
    """Compare single steps, train both, print the table and write the curves."""
    check_extras("training,demo")
    load_api()
    console = Console()
    digits = Digits.load(seed)
    batches = digits.batches(epochs, seed)
    with tempfile.TemporaryDirectory() as folder:
        pair = trainers(Path(folder))
        pair[0].optimizer.set_learning_rate(LEARNING_RATE)
        differences = compare_steps(*pair, batches[:COMPARED_STEPS])
        original, rewritten = trainers(Path(folder))
        runs = {"original": Run(original), "rewritten": Run(rewritten)}
        train(runs, batches, console)
        console.print(show(runs, differences, digits.test))
    draw({name: runs[name].losses for name in ("rewritten", "original")}, output)
    console.print(f"loss curves: {output}")


if __name__ == "__main__":
    main()
