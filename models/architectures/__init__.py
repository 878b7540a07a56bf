"""The sample networks, one file each: a PyTorch module and an example of its input."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import conv1d_signals, mobilenet_digits, resnet18, resnet_digits, unet_digits

#: Name -> function that makes (module, example input).
ARCHITECTURES: dict[str, Callable[[], tuple[torch.nn.Module, torch.Tensor]]] = {
    "conv1d_signals": conv1d_signals.make,
    "mobilenet_digits": mobilenet_digits.make,
    "resnet18": resnet18.make,
    "resnet_digits": resnet_digits.make,
    "unet_digits": unet_digits.make,
}

#: Networks whose weights are no files for git: they are exported elsewhere, and made anew where they are wanted.
LARGE = frozenset({"resnet18"})
