"""Reads and writes the parameters of a checkpoint file, or of a running training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.training import checkpoints


class CheckpointParameters:
    """The parameters of a checkpoint; empty if there is no checkpoint."""

    def __init__(self, state: Any = None, path: Path | None = None) -> None:
        self._state = state  # a CheckpointState, or the contents of a file
        self._path = path

    @classmethod
    def of(cls, checkpoint: Any) -> CheckpointParameters:
        """The parameters of a CheckpointState, or of the file of one.

        Raises:
            OnnxCbpError: it is neither, or the file cannot be read or has no values.
        """
        if checkpoint is None or hasattr(checkpoint, "parameters"):
            found, is_nominal = cls(checkpoint), getattr(checkpoint, "nominal", False)
        elif isinstance(checkpoint, str | os.PathLike):
            read = checkpoints.load(Path(checkpoint))
            found, is_nominal = cls(read, Path(checkpoint)), read.nominal
        else:
            raise OnnxCbpError(f"checkpoint is {checkpoint!r}: give a CheckpointState, or the path of a checkpoint")
        if is_nominal:
            raise OnnxCbpError(f"{found} is nominal: it has the parameters' names and no values: name the whole one")
        return found

    def __str__(self) -> str:
        """Its name in messages."""
        return "the CheckpointState" if self._path is None else f"'{self._path}'"

    def __bool__(self) -> bool:
        return self._state is not None

    def __contains__(self, name: object) -> bool:
        return self._state is not None and name in self._state.parameters

    def __iter__(self) -> Iterator[str]:
        if self._path is not None:
            yield from self._state.parameters
        elif self._state is not None:
            yield from (name for name, _ in self._state.parameters)

    @property
    def random_state(self) -> int:
        """The state of the random generator for the next step; 0 if there is none, as in training."""
        return getattr(self._state, "random_state", None) or 0

    def get(self, name: str) -> np.ndarray:
        """A copy of a parameter."""
        parameter = self._state.parameters[name]
        return np.array(parameter if self._path is not None else parameter.data)

    def set(self, name: str, value: np.ndarray) -> None:
        """Give a parameter a value of its shape, in its own type.

        Raises:
            OnnxCbpError: the value has another shape.
        """
        shape = self.get(name).shape
        if value.shape != shape:
            raise OnnxCbpError(f"parameter '{name}' has shape {list(shape)}, and is given one of {list(value.shape)}")
        if self._path is not None:
            self._state.parameters[name][...] = value
            return
        parameter = self._state.parameters[name]
        data = parameter.data
        if not data.flags.writeable:  # ours: a copy
            parameter.data = value.astype(data.dtype)
            return
        # In memory: where no Module has been made of the state yet, the setter ends the process (onnxruntime 1.19.2).
        data[...] = value
        if not np.array_equal(parameter.data, data):  # a copy, because the parameter is on another device
            parameter.data = data

    def save(self) -> None:
        """Write the file, whole or not at all; a CheckpointState that was given stays with its owner."""
        if self._path is not None:
            checkpoints.save_values(self._path, self._state.parameters)
