"""A small MobileNetV2 (Sandler et al. 2018) for 8x8 images: inverted residuals with linear bottlenecks and ReLU6."""

from __future__ import annotations

import torch
from torch import nn

STEM = 8
#: Width, stride of each inverted residual; a stride of 1 at the same width has a residual sum.
BOTTLENECKS = ((8, 1), (12, 2), (12, 1), (16, 2), (16, 1), (16, 1))
EXPANSION = 4
HEAD = 48
CLASSES = 10


def normalised(width_in: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias and the batch norm after it."""
    convolution = nn.Conv2d(width_in, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel alone by 3x3, project by 1x1 with no activation after the batch norm."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        inner = EXPANSION * width_in
        self.residual = stride == 1 and width == width_in
        self.layers = nn.Sequential(
            *normalised(width_in, inner),
            nn.ReLU6(),
            *normalised(inner, inner, kernel=3, stride=stride, groups=inner),
            nn.ReLU6(),
            *normalised(inner, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, width_in, H, W] -> [N, width, H / stride, W / stride]."""
        y = self.layers(x)
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Stem, inverted residuals, a 1x1 convolution, global average and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*normalised(1, STEM, kernel=3), nn.ReLU6()]
        width_in = STEM
        for width, stride in BOTTLENECKS:
            layers.append(InvertedResidual(width_in, width, stride))
            width_in = width
        self.features = nn.Sequential(*layers, *normalised(width_in, HEAD), nn.ReLU6())
        self.classifier = nn.Linear(HEAD, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 1, 8, 8] -> logits [N, 10]."""
        return self.classifier(self.features(x).mean((2, 3)))


def make() -> tuple[nn.Module, torch.Tensor]:
    """The network and an example of its input.

    The batch norms do not start with weights 1 and biases 0. With a bias of 0, the weight before a depthwise
    convolution scales a channel that the next batch norm scales back: its gradient is zero, and what is computed of it
    is rounding, 0.001 of itself from one ulp in the parameters. No comparison could say anything about it.
    """
    network = MobileNet()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network, torch.randn(4, 1, 8, 8)
