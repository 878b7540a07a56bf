"""ResNet-18 (He et al. 2015, section 4.1): the network of ImageNet, for images of 64x64."""

from __future__ import annotations

import torch
from torch import nn

SIZE = 64
WIDTHS = (64, 128, 256, 512)
BLOCKS_A_STAGE = 2
CLASSES = 1000


class Block(nn.Module):
    """Two convolutions with batch norms, and a shortcut that is projected where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, width_in, H, W] -> [N, width, H / stride, W / stride]."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


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
