"""Gated, dilated convolutions on signals in time: batch norms of [N, C, L] and [N, C], of odd widths."""

from __future__ import annotations

import torch
from torch import nn

AXES = 3
SAMPLES = 37
WIDTHS = (7, 11, 13)
HIDDEN = 9
CLASSES = 6


class GatedBlock(nn.Module):
    """A convolution whose batch norm is read three times: by a gate, by what is gated, and by the sum after both."""

    def __init__(self, width_in: int, width: int, dilation: int) -> None:
        super().__init__()
        # Everything that the two-dimensional networks leave at its default: bias, epsilon, momentum.
        self.convolution = nn.Conv1d(width_in, width, 5, padding=2 * dilation, dilation=dilation)
        self.norm = nn.BatchNorm1d(width, eps=1e-3, momentum=0.03)
        self.gated = nn.Conv1d(width, width, 1, bias=False)
        self.gated_norm = nn.BatchNorm1d(width, eps=1e-2, momentum=0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, width_in, L] -> [N, width, L]."""
        normal = self.norm(self.convolution(x))
        gated = torch.tanh(self.gated_norm(self.gated(torch.relu(normal))))
        return normal + gated * torch.sigmoid(normal)


class Conv1dNet(nn.Module):
    """Blocks with max poolings between them, the mean over time, and a classifier with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width_in = AXES
        for index, width in enumerate(WIDTHS):
            if index:
                blocks.append(nn.MaxPool1d(2))
            blocks.append(GatedBlock(width_in, width, dilation=index + 1))
            width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.hidden = nn.Linear(width_in, HIDDEN)
        self.norm = nn.BatchNorm1d(HIDDEN, eps=1e-4, momentum=0.5)
        self.classifier = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, 37] -> logits [N, 6]."""
        y = self.hidden(self.blocks(x).mean(2))
        return self.classifier(torch.relu(self.norm(y)))


def make() -> tuple[nn.Module, torch.Tensor]:
    """The network and an example of its input."""
    return Conv1dNet(), torch.randn(4, AXES, SAMPLES)
