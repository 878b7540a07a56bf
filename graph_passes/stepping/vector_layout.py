"""Where each of many tensors of one type lies in one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VectorLayout:
    """Tensors of one type behind one another.

    Attributes:
        shapes: by name, in order.
        dtype: the type of all of them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: np.dtype

    @property
    def sizes(self) -> list[int]:
        """How many elements each tensor has."""
        return [math.prod(shape) for shape in self.shapes.values()]

    @property
    def total(self) -> int:
        """How many elements all have."""
        return sum(self.sizes)

    def pack(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The vector [total] of arrays by name."""
        pieces = [np.asarray(arrays[name], self.dtype).reshape(-1) for name in self.shapes]
        return np.concatenate(pieces) if pieces else np.zeros(0, self.dtype)

    def piece(self, vector: np.ndarray, name: str) -> np.ndarray:
        """A view of one tensor in the vector."""
        start = 0
        for other, shape in self.shapes.items():
            if other == name:
                return vector[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        raise KeyError(name)

    def unpack(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Views of all tensors in the vector, by name."""
        ends = np.cumsum(self.sizes)[:-1]
        pieces = np.split(vector, ends) if self.shapes else []
        return {name: piece.reshape(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
