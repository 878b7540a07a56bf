"""Networks made up from a seed in PyTorch, and how its exporters write them. Needs PyTorch."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

CLASSES = 5
#: The legacy exporter keeps a batch norm's mode; the default one writes inference form only.
EXPORTERS = ("legacy", "default")


class _Unit(nn.Module):
    """A convolution, a batch norm, and an activation or none."""

    def __init__(self, rng: np.random.Generator, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        kernel = int(rng.choice([1, 3, 5]))
        self.conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=bool(rng.integers(2)))
        self.bn = nn.BatchNorm2d(
            after,
            eps=float(rng.choice([1e-5, 1e-3])),
            momentum=float(rng.choice([0.1, 0.3])),
            affine=rng.random() < 0.8,
        )
        self.act = nn.Tanh() if rng.random() < 0.2 else nn.ReLU() if rng.random() < 0.8 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Units behind one another; beside them a way around: a sum, a concatenation, or none."""

    def __init__(self, rng: np.random.Generator, before: int) -> None:
        super().__init__()
        self.kind = str(rng.choice(["plain", "residual", "concatenation"]))
        width = before if self.kind == "residual" else int(rng.choice([4, 6, 8, 12]))
        stride = 1 if self.kind != "plain" else int(rng.choice([1, 2]))
        groups = int(np.gcd(before, width)) if rng.random() < 0.3 else 1
        units = [_Unit(rng, before, width, stride, groups)]
        units += [_Unit(rng, width, width, 1, 1) for _ in range(int(rng.integers(0, 2)))]
        self.units = nn.Sequential(*units)
        self.width = before + width if self.kind == "concatenation" else width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.units(x)
        if self.kind == "residual":
            return x + y
        return torch.cat([x, y], 1) if self.kind == "concatenation" else y


class Network(nn.Module):
    """A classifier of [N, 3, 6, 6]: depth, widths, kernels, strides, groups and ways around are the seed's choice.

    Args:
        frozen: freeze each batch norm with a probability of 0.4, half of them with their scale and bias.
    """

    def __init__(self, seed: int, *, frozen: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        blocks, width = [], 3
        for _ in range(int(rng.integers(2, 5))):
            blocks.append(_Block(rng, width))
            width = blocks[-1].width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, CLASSES)
        self.frozen = []
        for name, module in self.named_modules():
            if not isinstance(module, nn.BatchNorm2d):
                continue
            with torch.no_grad():
                # Statistics and affine parameters that a net has after some training: a layer frozen at 0 and 1
                # could be mistaken for none.
                module.running_mean.copy_(torch.tensor(rng.normal(0.0, 0.2, module.num_features)))
                module.running_var.copy_(torch.tensor(rng.uniform(0.5, 2.0, module.num_features)))
                if module.affine:
                    module.weight.copy_(torch.tensor(rng.uniform(0.5, 1.5, module.num_features)))
                    module.bias.copy_(torch.tensor(rng.normal(0.0, 0.3, module.num_features)))
            if frozen and rng.random() < 0.4:
                self.frozen.append(name)
                module.requires_grad_(rng.random() < 0.5)
        self.train()

    def train(self, mode: bool = True) -> Network:
        """As PyTorch's, but frozen batch norms stay in evaluation mode: the usual way to fine-tune."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).mean((2, 3)))

    def trained(self) -> list[str]:
        """Names of the parameters that have a gradient."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def statistics(self) -> list[str]:
        """Names of all running statistics."""
        return [name for name, _ in self.named_buffers() if name.endswith(("running_mean", "running_var"))]


def export(network: Network, exporter: str, folder: Path) -> onnx.ModelProto:
    """The forward graph, as one of PyTorch's exporters writes it."""
    example = torch.zeros(4, 3, 6, 6)
    start = {name: value.detach().clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy exporter is deprecated, the other one warns of much
        if exporter == "legacy":
            file = io.BytesIO()
            torch.onnx.export(
                network.train(),
                (example,),
                file,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                opset_version=17,
                input_names=["x"],
                output_names=["logits"],
                dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
            )
            network.load_state_dict(start)  # it runs the network once, which moves the running statistics
            model = onnx.load_from_string(file.getvalue())
        else:
            path = folder / "default.onnx"
            torch.onnx.export(
                network.train(),
                (example,),
                str(path),
                dynamo=True,
                optimize=False,
                external_data=False,
                opset_version=18,
                input_names=["x"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N", min=2, max=4096)},),
            )
            network.load_state_dict(start)
            model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in start:
            tensor.CopyFrom(onnx.numpy_helper.from_array(start[tensor.name].numpy(), tensor.name))
    return model
