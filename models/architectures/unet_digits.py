"""A U-Net (Ronneberger et al. 2015) for 8x8 images: two max poolings down, two up-convolutions with concatenations."""

from __future__ import annotations

import torch
from torch import nn

SIZE = 8
WIDTHS = (8, 12, 20)
#: The ten digits, and the background.
CLASSES = 11


class DoubleConvolution(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )


class UpConvolution(nn.Module):
    """What ConvTranspose2d(width_in, width, kernel_size=2, stride=2) computes: each pixel becomes four.

    Written as a 1x1 convolution to four times the width and a rearrangement, because ONNX Runtime 1.19.2 has no
    gradient of ConvTranspose, Resize or DepthToSpace on a CPU (models/README.md).
    """

    def __init__(self, width_in: int, width: int, size: int) -> None:
        super().__init__()
        self.width, self.size = width, size
        self.convolution = nn.Conv2d(width_in, 4 * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, width_in, size, size] -> [N, width, 2 size, 2 size]."""
        y = self.convolution(x).reshape(-1, self.width, 2, 2, self.size, self.size)
        return y.permute(0, 1, 4, 2, 5, 3).reshape(-1, self.width, 2 * self.size, 2 * self.size)


class UNet(nn.Module):
    """Contracting path, expanding path, and a 1x1 convolution that classifies every pixel."""

    def __init__(self) -> None:
        super().__init__()
        top, middle, bottom = WIDTHS
        self.down1 = DoubleConvolution(1, top)
        self.down2 = DoubleConvolution(top, middle)
        self.bottom = DoubleConvolution(middle, bottom)
        self.pool = nn.MaxPool2d(2)
        self.up2 = UpConvolution(bottom, middle, SIZE // 4)
        self.merge2 = DoubleConvolution(2 * middle, middle)
        self.up1 = UpConvolution(middle, top, SIZE // 2)
        self.merge1 = DoubleConvolution(2 * top, top)
        self.classifier = nn.Conv2d(top, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 1, 8, 8] -> logits of every pixel [N, 11, 8, 8]."""
        first = self.down1(x)
        second = self.down2(self.pool(first))
        y = self.bottom(self.pool(second))
        y = self.merge2(torch.cat([second, self.up2(y)], dim=1))
        y = self.merge1(torch.cat([first, self.up1(y)], dim=1))
        return self.classifier(y)


def make() -> tuple[nn.Module, torch.Tensor]:
    """The network and an example of its input."""
    return UNet(), torch.randn(4, 1, SIZE, SIZE)
