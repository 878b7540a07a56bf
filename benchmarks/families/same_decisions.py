"""PyTorch's float32 beside its float64 where both take the same side of every ReLU and the same elements of pools."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

_RELU, _MAX_POOL = functional.relu, functional.max_pool2d


class Decisions:
    """What a network decides in one pass, in the order in which it does."""

    def __init__(self) -> None:
        self._taken: list[torch.Tensor] = []

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Let a pass decide, and note what."""

        def relu(x: torch.Tensor, **_: Any) -> torch.Tensor:
            self._taken.append(x > 0)
            return _RELU(x)

        def max_pool(x: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
            values, places = _MAX_POOL(x, *more, **{**options, "return_indices": True})
            self._taken.append(places)
            return values

        with _patched(relu, max_pool):
            yield

    @contextlib.contextmanager
    def repeated(self) -> Iterator[None]:
        """Let a pass of the same network do the same."""
        taken = iter(self._taken)

        def relu(x: torch.Tensor, **_: Any) -> torch.Tensor:
            return x * next(taken)

        def max_pool(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            places = next(taken)
            return x.flatten(2).gather(2, places.flatten(2)).reshape(places.shape)

        with _patched(relu, max_pool):
            yield


@contextlib.contextmanager
def _patched(relu: Any, max_pool: Any) -> Iterator[None]:
    functional.relu, functional.max_pool2d = relu, max_pool
    try:
        yield
    finally:
        functional.relu, functional.max_pool2d = _RELU, _MAX_POOL
