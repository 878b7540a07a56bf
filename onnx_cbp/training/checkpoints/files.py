"""Reads checkpoint files of both formats, and writes ours whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.model_files.files import Replacement
from onnx_cbp.training.checkpoints import ort_format, safetensors_format
from onnx_cbp.training.checkpoints.contents import Checkpoint
from onnx_cbp.training.checkpoints.flat_buffers import MalformedError


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """A checkpoint: a file of ours (safetensors), or one of ONNX Runtime's, which its first bytes tell.

    ONNX Runtime's training build is not needed for either.

    Raises:
        OnnxCbpError: one line: no such file, a folder without a checkpoint in it, or a file that is no checkpoint.
    """
    file = Path(path)
    if file.is_dir():
        raise OnnxCbpError(f"'{file}' is a folder: name the checkpoint file in it")
    try:
        data = file.read_bytes()
        return ort_format.read(data, file) if ort_format.is_ort_format(data[:8]) else safetensors_format.read(data)
    except FileNotFoundError as error:
        missing = "does not exist" if error.filename == str(file) else f"needs '{error.filename}', which is not there"
        raise OnnxCbpError(f"'{file}' {missing}: name the checkpoint") from None
    except OSError as error:
        raise OnnxCbpError(f"'{file}' cannot be read: {error.strerror}") from None
    except MalformedError as error:
        raise OnnxCbpError(f"'{file}' cannot be read as a checkpoint: {' '.join(str(error).split())}") from None


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint in our format; an old file stays until the new one is complete and on the disk.

    Raises:
        OnnxCbpError: one line: a folder, a folder that is not there, or that cannot be written.
    """
    _write(Path(path), partial(safetensors_format.write, checkpoint))


def save_values(path: str | os.PathLike[str], values: Mapping[str, np.ndarray]) -> None:
    """Replace the values of some parameters in a file, with the same types and shapes; the file keeps its format.

    Raises:
        OnnxCbpError: one line: the file cannot be read or written.
    """
    file = Path(path)
    checkpoint = load(file)
    data = file.read_bytes()
    if not ort_format.is_ort_format(data[:8]):
        checkpoint.parameters.update(values)
        save(checkpoint, file)
        return
    try:
        changed = ort_format.with_values(data, values)
        _write(file, lambda scratch: scratch.write_bytes(changed))
    except MalformedError as error:
        raise OnnxCbpError(f"'{file}' cannot be written: {error}") from None


def _write(file: Path, write: Callable[[Path], object]) -> None:
    replacement = Replacement(file, "checkpoint file")
    try:
        with replacement.scratch() as scratch:
            written = scratch / replacement.file.name
            write(written)
            replacement.put(written)
    except OSError as error:
        raise OnnxCbpError(f"'{replacement.file}' cannot be written: {error.strerror or error}") from None
