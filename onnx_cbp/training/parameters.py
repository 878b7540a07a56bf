"""The parameters of an ONNX Runtime checkpoint, read and written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.training.runtime import load_api


class Parameters:
    """The parameters of an ONNX Runtime checkpoint; none where there is no checkpoint."""

    def __init__(self, state: Any = None, path: Path | None = None) -> None:
        self._state = state
        self._path = path

    @classmethod
    def of(cls, checkpoint: Any) -> Parameters:
        """The parameters of a CheckpointState, or of the file of one."""
        if checkpoint is None or hasattr(checkpoint, "parameters"):
            return cls(checkpoint)
        if not isinstance(checkpoint, str | os.PathLike):
            raise OnnxCbpError(f"checkpoint is {checkpoint!r}: give a CheckpointState, or the path of a checkpoint")
        path = Path(checkpoint)
        if not path.is_file():
            raise OnnxCbpError(f"'{path}' {'is a folder' if path.is_dir() else 'does not exist'}")
        try:
            return cls(load_api().CheckpointState.load_checkpoint(str(path)), path)
        except OnnxCbpError:
            raise
        except Exception as error:
            raise OnnxCbpError(f"'{path}' does not load: {' '.join(str(error).split())}") from error

    def __bool__(self) -> bool:
        return self._state is not None

    def __contains__(self, name: object) -> bool:
        return self._state is not None and name in self._state.parameters

    def get(self, name: str) -> np.ndarray:
        """A copy of a parameter."""
        return np.array(self._state.parameters[name].data)

    def set(self, name: str, value: np.ndarray) -> None:
        """Give a parameter a value, in its own type."""
        parameter = self._state.parameters[name]
        # In memory: where no Module has been made of the state yet, the setter ends the process (onnxruntime 1.19.2).
        data = parameter.data
        data[...] = value
        if not np.array_equal(parameter.data, data):  # a copy, because the parameter is on another device
            parameter.data = data

    def save(self) -> None:
        """Write the file, whole or not at all; a CheckpointState that was given stays with its owner."""
        if self._path is None:
            return
        path = self._path.resolve()
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            scratch = Path(folder) / path.name
            load_api().CheckpointState.save_checkpoint(self._state, str(scratch), include_optimizer_state=True)
            scratch.chmod(path.stat().st_mode)
            scratch.replace(path)
