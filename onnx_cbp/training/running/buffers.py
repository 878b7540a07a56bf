"""State that runs read and write, without a copy."""

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
        """A new OrtValue with a copy of the array, in memory of its own: views on it stay valid when it is gone."""
        value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, self.kind, self.number)
        value.update_inplace(np.asarray(array, order="C"))
        return value

    def take(self, array: np.ndarray) -> Any:
        """A new OrtValue of an array that nobody else changes: on the processor it is the array itself.

        Only the OrtValue keeps the array then, and not the views that its `numpy` gives: so it is not for users.
        """
        return ort.OrtValue.ortvalue_from_numpy(array, self.kind, self.number)


class Buffer:
    """An array that runs read and write.

    A run reads it in one place and writes the next values to another, and `turn` exchanges the two: nothing is copied,
    and the values are there until then. In place, a run writes over what it has read, which takes half the memory.

    Args:
        array: the first values; the buffer's own from now on.
        device: where it lies.

    Attributes:
        in_place: whether runs write over what they have read.
    """

    def __init__(self, array: np.ndarray, device: Device) -> None:
        self._device = device
        self._values = [device.take(array)]
        self._arrays = [array] if device.kind == "cpu" else []  # what the values are there
        self._present = 0
        self.in_place = False

    @property
    def present(self) -> Any:
        """The OrtValue that holds the array."""
        return self._values[self._present]

    @property
    def other(self) -> Any:
        """The OrtValue that a run may write."""
        if self.in_place:
            return self.present
        if len(self._values) == 1:
            array = np.empty_like(self.array)
            self._values.append(self._device.take(array))
            self._arrays += [array] if self._arrays else []
        return self._values[1 - self._present]

    def turn(self) -> None:
        """Make what a run has written the present values."""
        if not self.in_place:
            self._present = 1 - self._present

    @property
    def array(self) -> np.ndarray:
        """The array: on the processor a view, elsewhere a copy."""
        return self._arrays[self._present] if self._arrays else self.present.numpy()

    def read(self) -> np.ndarray:
        """A copy of the array."""
        return np.array(self.array)

    def write(self, array: np.ndarray) -> None:
        """Give it other values; the shape and type stay."""
        self.present.update_inplace(np.ascontiguousarray(array))
