"""Networks whose training steps are measured: PyTorch modules, with the shapes of a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))

from architectures import ARCHITECTURES


@dataclass(frozen=True)
class Network:
    """What is trained, and on what.

    Attributes:
        make: makes the module.
        x: shape of a batch.
        labels: shape of its labels.
        classes: labels are below it.
    """

    make: Callable[[], nn.Module]
    x: tuple[int, ...]
    labels: tuple[int, ...]
    classes: int = 10


def _normalised(width_in: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


class _Block(nn.Module):
    """Two convolutions and a shortcut: without parameters, as He et al. have it for CIFAR."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_normalised(width_in, width, stride=stride), nn.ReLU(), *_normalised(width, width))
        narrow = stride != 1 or width_in != width
        self.shortcut = nn.Sequential(*_normalised(width_in, width, 1, stride)) if narrow else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class _Mean(nn.Module):
    """Over the pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def resnet20() -> nn.Module:
    """He et al. 2015, section 4.2, n = 3: 16, 32 and 64 channels on 32x32 images."""
    layers: list[nn.Module] = [*_normalised(3, 16), nn.ReLU()]
    width_in = 16
    for stage, width in enumerate((16, 32, 64)):
        for index in range(3):
            layers.append(_Block(width_in, width, 2 if stage and not index else 1))
            width_in = width
    return nn.Sequential(*layers, _Mean(), nn.Linear(64, 10))


#: Expansion, width, blocks, stride of the first.
_BOTTLENECKS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 2, 1))


class _Inverted(nn.Module):
    """Expand, filter each channel alone, project."""

    def __init__(self, width_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        expand = [*_normalised(width_in, inner, 1), nn.ReLU6()] if expansion != 1 else []
        self.body = nn.Sequential(
            *expand,
            *_normalised(inner, inner, 3, stride, groups=inner),
            nn.ReLU6(),
            *_normalised(inner, width, 1),
        )
        self.residual = stride == 1 and width_in == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return x + y if self.residual else y


def mobilenet() -> nn.Module:
    """Sandler et al. 2018 for 32x32 images: the first two strides are 1, half the blocks of the long stages."""
    layers: list[nn.Module] = [*_normalised(3, 32), nn.ReLU6()]
    width_in = 32
    for expansion, width, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 2, 2),
        (6, 64, 2, 2),
        (6, 96, 2, 1),
    ):
        for index in range(repeats):
            layers.append(_Inverted(width_in, width, stride if not index else 1, expansion))
            width_in = width
    layers += [*_normalised(width_in, 320, 1), nn.ReLU6()]
    return nn.Sequential(*layers, _Mean(), nn.Linear(320, 10))


def _double(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(*_normalised(width_in, width), nn.ReLU(), *_normalised(width, width), nn.ReLU())


class _UNet(nn.Module):
    """Ronneberger et al. 2015 with batch norms: three poolings down, three transposed convolutions up."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for b, a in pairwise(widths))
        self.merge = nn.ModuleList(_double(2 * b, b) for b in widths[:-1])
        self.classify = nn.Conv2d(widths[0], 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(torch.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for up, merge, skip in reversed(list(zip(self.up, self.merge, kept, strict=False))):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.classify(x)


def plain() -> nn.Module:
    """Convolutions without a batch norm: what onnxsim and onnx-ad differentiate too."""
    layers: list[nn.Module] = []
    for width_in, width, stride in ((3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(width_in, width, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, _Mean(), nn.Linear(64, 10))


NETWORKS = {
    "resnet20": Network(resnet20, (64, 3, 32, 32), (64,)),
    "mobilenet": Network(mobilenet, (64, 3, 32, 32), (64,)),
    "unet": Network(_UNet, (8, 3, 64, 64), (8, 64, 64)),
    "digits": Network(lambda: ARCHITECTURES["resnet_digits"]()[0], (64, 1, 8, 8), (64,)),
    "plain": Network(plain, (64, 3, 32, 32), (64,)),
}
