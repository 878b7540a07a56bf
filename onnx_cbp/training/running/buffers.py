"""State that runs read and write: in two arrays that take turns, so that nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort


@dataclass(frozen=True)
class Device:
    """A place for arrays.

    Attributes:
        kind: as ONNX Runtime names it: "cpu", "cuda".
        number: which one.
    """

    kind: str = "cpu"
    number: int = 0

    def put(self, array: np.ndarray) -> Any:
        """A new OrtValue with a copy of the array."""
        return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self.kind, self.number)


class Buffer:
    """An array in two places: a run reads the present one and writes the other; `turn` exchanges them."""

    def __init__(self, array: np.ndarray, device: Device) -> None:
        self._values = [device.put(array), device.put(array)]
        self._present = 0

    @property
    def present(self) -> Any:
        """The OrtValue that holds the array."""
        return self._values[self._present]

    @property
    def other(self) -> Any:
        """The OrtValue that a run may write."""
        return self._values[1 - self._present]

    def turn(self) -> None:
        """Make the other one the present one."""
        self._present = 1 - self._present

    def read(self) -> np.ndarray:
        """A copy of the array."""
        return np.array(self.present.numpy())

    def write(self, array: np.ndarray) -> None:
        """Give it other values; the shape and type stay."""
        self.present.update_inplace(np.ascontiguousarray(array))
