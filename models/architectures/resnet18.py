"""ResNet-18 (He et al. 2015, section 4.1): the network of ImageNet, for images of 64x64."""

from __future__ import annotations

import torch
from torch import nn

from .resnet_digits import Block

SIZE = 64
WIDTHS = (64, 128, 256, 512)
BLOCKS_A_STAGE = 2
CLASSES = 1000


class ResNet18(nn.Module):
    """A 7x7 stem with a max pooling, four stages of two blocks, global average and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks, width_in = [], WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            for index in range(BLOCKS_A_STAGE):
                blocks.append(Block(width_in, width, stride=2 if stage and not index else 1))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width_in, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, 64, 64] -> logits [N, 1000]."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


def make() -> tuple[nn.Module, torch.Tensor]:
    """The network and an example of its input."""
    return ResNet18(), torch.randn(4, 3, SIZE, SIZE)
