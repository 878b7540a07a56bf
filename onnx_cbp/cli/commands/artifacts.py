"""`onnx-cbp artifacts`: training artifacts of a forward model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from onnx_cbp.cli.progress import steps
from onnx_cbp.cli.synchronizing import GroupIsOptional, groups
from onnx_cbp.cli.told import warned

_FILES = ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint")


@click.command(cls=GroupIsOptional, short_help="Make training artifacts of a forward model.")
@click.argument("model", type=click.Path(readable=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(readable=False),
    required=True,
    metavar="FOLDER",
    help="Where the files go; made if it is not there.",
)
@click.option(
    "--loss",
    metavar="LOSS",
    help="CrossEntropyLoss, MSELoss, BCEWithLogitsLoss, L1Loss, or an output of MODEL that is the loss.  "
    "[default: its first output is]",
)
@click.option("--optimizer", metavar="OPTIMIZER", help="AdamW, Adam or SGD.  [default: no optimizer's graph]")
@click.option(
    "--train",
    multiple=True,
    metavar="PATTERN",
    help="Make batch norms in inference form with these names train ('*' matches any text); may be repeated.",
)
@click.option(
    "--freeze",
    multiple=True,
    metavar="PATTERN",
    help="Let the batch norms with these names keep their running statistics; may be repeated.",
)
@click.option(
    "--requires-grad",
    "trained",
    multiple=True,
    metavar="NAME",
    help="A parameter that trains; may be repeated.  [default: all]",
)
@click.option(
    "--frozen", multiple=True, metavar="NAME", help="A parameter that does not train; may be repeated.  [default: none]"
)
@click.option(
    "--tied",
    multiple=True,
    metavar="PATTERN",
    help="A parameter that several modules share, where MODEL does not tell shared ones from equal ones that the "
    "exporter merged; may be repeated; '' where none is.",
)
@click.option(
    "--output-name", "names", multiple=True, metavar="NAME", help="A value to have as an output; may be repeated."
)
@click.option(
    "--portable", is_flag=True, help="Attach function bodies: the graphs also run without onnx-cbp's library."
)
@click.option(
    "--synchronize",
    metavar="[GROUP]",
    help="Take batch statistics over all replicas, or over those of a group, as 'onnx-cbp rewrite' does.",
)
@click.option("--data-parallel", is_flag=True, help="Make loss and gradients those of all replicas' samples.")
@click.option(
    "--builder",
    type=click.Choice(["onnx_cbp", "onnxruntime"]),
    default="onnx_cbp",
    show_default=True,
    help="Whose gradients: ours, for any onnxruntime, or those of ONNX Runtime's training build, "
    "which wants --requires-grad.",
)
@click.option(
    "--direct-convs/--no-direct-convs",
    default=None,
    help="Let convolutions be onnx-cbp's ops for processors, where those are faster.  "
    "[default: where this machine has AVX2 and no CUDA]",
)
def artifacts(
    model: str,
    output: str,
    loss: str | None,
    optimizer: str | None,
    train: tuple[str, ...],
    freeze: tuple[str, ...],
    trained: tuple[str, ...],
    frozen: tuple[str, ...],
    tied: tuple[str, ...],
    names: tuple[str, ...],
    portable: bool,
    synchronize: str | None,
    data_parallel: bool,
    builder: str,
    direct_convs: bool | None,
) -> None:
    """Make a training, an evaluation and an optimiser's graph of MODEL, a forward graph, and a checkpoint.

    onnx_cbp.training.api trains with them. All files are written, or none.
    """
    from onnx_cbp.cli.text import console, say
    from onnx_cbp.training import generate_artifacts

    options: dict[str, Any] = {
        "freeze": freeze,
        "portable": portable,
        "synchronize": groups(synchronize),
        "data_parallel": data_parallel,
    }
    folder = Path(output)
    with steps([f"making artifacts of {model}"]) as step, _folder(folder), warned() as warnings:
        next(step)
        generate_artifacts(
            model,
            requires_grad=list(trained) or None,
            frozen_params=list(frozen),
            loss=loss,
            optimizer=optimizer,
            artifact_directory=folder,
            additional_output_names=list(names),
            train_batch_norms=list(train) or None,
            tied_params=[name for name in tied if name] if tied else None,
            rewrite_options={name: value for name, value in options.items() if value},
            builder=builder,
            direct_convs=direct_convs,
        )
    screen = console()
    for line in _summary(folder):
        say(screen, line)
    for line in warnings:
        say(screen, _of_the_command(line))
    written = [name for name in _FILES if name != "optimizer_model.onnx" or optimizer is not None]
    say(screen, f"wrote {', '.join(written)} to {output}")


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there; it is removed again if nothing is written into it."""
    if folder.exists():
        yield
        return
    folder.mkdir()
    try:
        yield
    except BaseException:
        folder.rmdir()
        raise


def _summary(folder: Path) -> list[str]:
    """What trains, and the names of inputs and outputs."""
    from onnx_cbp.model_files.model_io import load_model
    from onnx_cbp.training import checkpoints

    state = checkpoints.load(folder / "checkpoint")
    elements = sum(state.parameters[name].size for name in state.trained)
    frozen = [name for name in state.parameters if name not in state.trained]
    graph = load_model(folder / "eval_model.onnx", external_data=False).graph
    fed = [value.name for value in graph.input if value.name not in state.parameters]
    train = "parameter trains" if len(state.trained) == 1 else "parameters train"
    return [
        f"{len(state.trained)} {train}, {elements:,} elements; {len(frozen)} others, frozen or running statistics",
        f"{', '.join(fed)} -> {', '.join(value.name for value in graph.output)}",
    ]


def _of_the_command(warning: str) -> str:
    """A warning that names the option instead of the argument; without the option, they are frozen on purpose."""
    return warning.partition(", train_batch_norms=()")[0].replace("train_batch_norms='*'", "--train '*'")
