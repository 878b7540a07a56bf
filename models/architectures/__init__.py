"""The sample networks, one file each: a PyTorch module and an example of its input."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import resnet_digits

#: Name -> function that makes (module, example input).
ARCHITECTURES: dict[str, Callable[[], tuple[torch.nn.Module, torch.Tensor]]] = {
    "resnet_digits": resnet_digits.make,
}
