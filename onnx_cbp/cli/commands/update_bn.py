"""`onnx-cbp update-bn`: measures running statistics again from data."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnx_cbp.cli.progress import steps
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.model_files.files import Replacement

if TYPE_CHECKING:
    import numpy as np
    import onnx


@click.command("update-bn", short_help="Measure running statistics again from data.")
@click.argument("model", type=click.Path(readable=False))
@click.option(
    "--data",
    type=click.Path(readable=False),
    required=True,
    help="A .npz file of arrays named as MODEL's inputs (others are not read), or a folder of such files.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(readable=False),
    required=True,
    metavar="OUT",
    help="File to write, the model or, with --checkpoint, the checkpoint; may be the one that is read.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Cut each file into batches.  [default: a file is one]")
@click.option("--checkpoint", type=click.Path(readable=False), help="A checkpoint with MODEL's parameters.")
@click.option("--momentum", type=click.FloatRange(0, 1), help="The part that is kept.  [default: batches count alike]")
@click.option("--exact", is_flag=True, help="Statistics of all samples, not the average of those of batches.")
@click.option(
    "--unbiased-running-var/--biased-running-var",
    default=True,
    help="Variances by PyTorch's convention, count / (count - 1) (the default), or by that of ONNX and Keras.",
)
def update_bn(
    model: str,
    data: str,
    output: str,
    batch_size: int | None,
    checkpoint: str | None,
    momentum: float | None,
    exact: bool,
    unbiased_running_var: bool,
) -> None:
    """Run MODEL over data and give its batch norms the running statistics of that, as PyTorch's update_bn does.

    Parameters stay as they are. OUT is written whole or not at all.
    """
    import onnx_cbp
    from onnx_cbp.cli.text import console, say
    from onnx_cbp.model_files.model_io import load_model, save_model

    with steps([f"reading {model}", "running", f"writing {output}"]) as step:
        next(step)
        source = load_model(model)
        next(step)
        target = Path(output)
        with tempfile.TemporaryDirectory() as folder:
            copy = _copied(checkpoint, Path(folder))
            result = onnx_cbp.update_bn(
                source,
                batches_of(Path(data), batch_size, {value.name for value in source.graph.input}),
                checkpoint=copy,
                momentum=momentum,
                exact=exact,
                unbiased_running_var=unbiased_running_var,
            )
            next(step)
            if copy is None:
                save_model(result, output)
            else:
                _refuse_constants(source, result, model)
                _move(copy, target)
    say(console(), f"wrote {output}")


def batches_of(data: Path, batch_size: int | None, inputs: Collection[str]) -> Iterator[dict[str, np.ndarray]]:
    """The arrays for the inputs in a .npz file, or in each file of a folder, cut along the first axis."""
    files = sorted(data.glob("*.npz")) if data.is_dir() else [data]
    if not files:
        raise OnnxCbpError(f"'{data}' is a folder without .npz files")
    for file in files:
        arrays = _arrays(file, inputs)
        lengths = {len(array) for array in arrays.values() if array.ndim}
        if batch_size is None or not lengths:
            yield arrays
            continue
        if len(lengths) > 1:
            raise OnnxCbpError(f"'{file}' has arrays of {sorted(lengths)} samples, which cannot be cut into batches")
        for start in range(0, lengths.pop(), batch_size):
            part = slice(start, start + batch_size)
            yield {name: array[part] if array.ndim else array for name, array in arrays.items()}


def _arrays(file: Path, inputs: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays with the names of inputs; a file may also hold others, such as labels.

    Raises:
        OnnxCbpError: there is no such file, or none of its arrays is for an input.
    """
    import numpy as np

    try:
        loaded = np.load(file)
        if not isinstance(loaded, np.ndarray):
            with loaded as arrays:
                found = {name: arrays[name] for name in arrays.files if name in inputs}
                if not found:
                    raise OnnxCbpError(
                        f"'{file}' has {_quoted(arrays.files)}, and the model's inputs are {_quoted(sorted(inputs))}: "
                        "save arrays by their names"
                    )
                return found
    except OnnxCbpError:
        raise
    except FileNotFoundError:
        raise OnnxCbpError(f"'{file}' does not exist") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise OnnxCbpError(f"'{file}' is no .npz file of arrays") from None
    raise OnnxCbpError(f"'{file}' is one array: save it by the input's name, numpy.savez(file, name=array)")


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"


def _copied(checkpoint: str | None, folder: Path) -> Path | None:
    """A copy of the checkpoint to work on."""
    from onnx_cbp.training.parameters import CheckpointParameters

    if checkpoint is None:
        return None
    path = Path(checkpoint)
    if not path.is_file():
        raise OnnxCbpError(f"'{path}' {'is a folder' if path.is_dir() else 'does not exist'}")
    CheckpointParameters.of(path)  # what is wrong with it is said of this path, not of the copy's
    return Path(shutil.copy(path, folder / "checkpoint"))


def _refuse_constants(before: onnx.ModelProto, after: onnx.ModelProto, model: str) -> None:
    """Raise if statistics are in the model, since only the checkpoint is written."""
    known = {tensor.name: tensor for tensor in before.graph.initializer}
    for tensor in after.graph.initializer:
        if known.get(tensor.name) != tensor:
            raise OnnxCbpError(
                f"the running statistic '{tensor.name}' is a constant of '{model}', not in the checkpoint: name it in "
                "frozen_params when you generate the artifacts"
            )


def _move(checkpoint: Path, target: Path) -> None:
    replacement = Replacement(target)
    try:
        with replacement.scratch() as scratch:
            replacement.put(Path(shutil.copyfile(checkpoint, scratch / replacement.file.name)))
    except OSError as error:
        raise OnnxCbpError(f"'{target}' cannot be written: {error.strerror or error}") from None
