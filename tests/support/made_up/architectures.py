"""Small networks of the kinds that classifiers and their relatives are made of, for gradients. Needs PyTorch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A network, and the shape of one sample of its data.

    Attributes:
        make: makes it, after the seed is set.
        sample: of what it reads.
        tokens: it reads whole numbers below this.
        trains: its batch norms train.
    """

    make: Callable[[], nn.Module]
    sample: tuple[int, ...] = (3, 12, 12)
    tokens: int = 0
    trains: bool = False


class Function(nn.Module):
    """Layers, and what is done with them."""

    def __init__(self, forward: Callable[..., torch.Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.layers)


def _unit(before: int, after: int, act: nn.Module | None = None, **options) -> nn.Sequential:
    kernel = options.pop("kernel", 3)
    options.setdefault("padding", kernel // 2)
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, bias=False, **options), nn.BatchNorm2d(after), act or nn.ReLU()
    )


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def _squeeze(width: int) -> nn.Module:
    return Function(
        lambda x, down, up: x * F.hardsigmoid(up(F.relu(down(x.mean((2, 3), keepdim=True))))),
        nn.Conv2d(width, 4, 1),
        nn.Conv2d(4, width, 1),
    )


def _mobile() -> nn.Module:
    return nn.Sequential(
        _unit(3, 8, nn.Hardswish(), stride=2),
        _unit(8, 16, nn.ReLU6(), kernel=1),
        _unit(16, 16, nn.ReLU6(), kernel=5, groups=16),
        _squeeze(16),
        nn.Conv2d(16, 8, 1),
        _head(8),
    )


def _residual(x: torch.Tensor, stem, first, second, beside, head) -> torch.Tensor:
    x = stem(x)
    return head(F.relu(second(first(x)) + beside(x)))


def _dense() -> nn.Module:
    def forward(x, stem, first, second, head):
        x = stem(x)
        x = torch.cat([x, first(x)], 1)
        return head(F.avg_pool2d(torch.cat([x, second(x)], 1), 2))

    return Function(forward, nn.Conv2d(3, 6, 3, padding=1), _unit(6, 4), _unit(10, 4), _head(14))


def _shuffle() -> nn.Module:
    def forward(x, stem, unit, head):
        left, right = stem(x).chunk(2, dim=1)
        y = torch.cat([left, unit(right)], 1)
        n, c, h, w = y.shape
        return head(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))

    return Function(forward, nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(4, 4, 3, padding=1, groups=4), _head(8))


def _unet(upsample: nn.Module) -> nn.Module:
    def forward(x, down, deep, up, out):
        a = F.relu(down(x))
        b = F.relu(deep(F.max_pool2d(a, 2)))
        return out(torch.cat([a, up(b)], 1)).flatten(1)

    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1), upsample, nn.Conv2d(14, 2, 1))
    return Function(forward, *layers)


def _attention() -> nn.Module:
    def forward(x, norm, qkv, out, head):
        y = norm(x)
        q, k, v = qkv(y).reshape(y.shape[0], y.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(y.shape)
        return head((x + out(mixed)).mean(1))

    return Function(forward, nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 5))


class _Patches(nn.Module):
    """Patches and a class token, as vision transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 10, 8))
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head((x + self.mlp(x))[:, 0])


def _windows(x: torch.Tensor, linear, head) -> torch.Tensor:
    y = torch.roll(x.permute(0, 2, 3, 1), (-2, -2), (1, 2))
    n, h, w, c = y.shape
    y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    y = F.softmax(linear(y), dim=-1).view(n, -1, c)
    return head(y.mean(1))


def _inception() -> nn.Module:
    def forward(x, a, b, c, head):
        pooled = F.max_pool2d(x, 3, 1, 1)
        y = torch.cat([a(x), F.relu(b(x)), c(pooled), F.avg_pool2d(x, 3, 1, 1)], 1)
        return head(F.local_response_norm(y, 3, alpha=0.1))

    layers = (nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, (1, 5), padding=(0, 2)), nn.Conv2d(3, 2, (3, 1), padding=(1, 0)))
    return Function(forward, *layers, _head(13))


def _activations(x: torch.Tensor, *linear: nn.Module) -> torch.Tensor:
    acts = (F.elu, F.selu, F.softplus, F.softsign, F.silu, F.mish, F.leaky_relu, torch.tanh, F.gelu, F.hardtanh)
    for layer, act in zip(linear, acts, strict=False):
        x = x + act(layer(x))
    return F.log_softmax(x, dim=1)


ARCHITECTURES: dict[str, Architecture] = {
    "mobile, squeeze and excitation, hard swish": Architecture(_mobile, trains=True),
    "residual, strides": Architecture(
        lambda: Function(
            _residual,
            *(nn.Conv2d(3, 6, 3, padding=1), _unit(6, 8, stride=2), nn.Conv2d(8, 8, 3, padding=1)),
            *(nn.Conv2d(6, 8, 1, stride=2, bias=False), _head(8)),
        ),
        trains=True,
    ),
    "groups": Architecture(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, groups=4), _head(12))
    ),
    "dilations": Architecture(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, dilation=2),
            nn.Tanh(),
            nn.Conv2d(6, 4, 3, padding=2, dilation=(1, 2), stride=2),
            _head(4),
        )
    ),
    "depthwise, several filters a channel": Architecture(
        lambda: nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(12, 4, 1), _head(4))
    ),
    "dense, batch norms": Architecture(_dense, trains=True),
    "frozen batch norms": Architecture(_dense),
    "shuffles": Architecture(_shuffle),
    "transposed": Architecture(lambda: _unet(nn.ConvTranspose2d(8, 8, 2, stride=2))),
    "transposed, output padding": Architecture(
        lambda: _unet(nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1, groups=2))
    ),
    "resize, nearest": Architecture(lambda: _unet(nn.Upsample(scale_factor=2))),
    "resize, bilinear": Architecture(lambda: _unet(nn.Upsample(scale_factor=2, mode="bilinear"))),
    "resize, corners": Architecture(lambda: _unet(nn.Upsample((12, 12), mode="bilinear", align_corners=True))),
    "ceil mode, overlapping": Architecture(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Sigmoid(), nn.AvgPool2d(3, 2, 1), _head(6)
        )
    ),
    "averages without padding": Architecture(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), _head(6)
        )
    ),
    "inception, local response": Architecture(_inception),
    "one axis": Architecture(
        lambda: nn.Sequential(
            *(nn.Conv1d(3, 6, 5, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(3, 2, 1)),
            *(nn.Conv1d(6, 4, 3, stride=2), nn.Flatten(), nn.Linear(8, 5)),
        ),
        sample=(3, 9),
        trains=True,
    ),
    "three axes": Architecture(
        lambda: nn.Sequential(
            *(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2)),
            *(nn.Conv3d(4, 4, 2, stride=2), nn.Flatten(), nn.Linear(4, 3)),
        ),
        sample=(2, 4, 4, 4),
        trains=True,
    ),
    "layer norm, large kernels": Architecture(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 7, padding=3, groups=3),
            Function(lambda x, norm: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(6)),
            *(nn.Conv2d(6, 12, 1), nn.GELU(), nn.Conv2d(12, 4, 1), _head(4)),
        )
    ),
    "group norm, SiLU": Architecture(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 4, 3), _head(4))
    ),
    "instance norm, PReLU, reflection": Architecture(
        lambda: nn.Sequential(
            *(nn.ReflectionPad2d(1), nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.PReLU(6)),
            *(nn.ReplicationPad2d((1, 0, 2, 1)), nn.Conv2d(6, 4, 3), _head(4)),
        )
    ),
    "attention": Architecture(_attention, sample=(6, 8)),
    "patches and a token": Architecture(_Patches),
    "shifted windows": Architecture(lambda: Function(_windows, nn.Linear(4, 4), nn.Linear(4, 5)), sample=(4, 8, 8)),
    "embedding": Architecture(
        lambda: nn.Sequential(
            *(nn.Embedding(11, 6), Function(lambda x, linear: torch.relu(linear(x)).amax(1), nn.Linear(6, 6))),
            nn.Linear(6, 5),
        ),
        sample=(7,),
        tokens=11,
    ),
    "recurrent": Architecture(
        lambda: Function(
            lambda x, gru, lstm, head: head(lstm(gru(x)[0])[0].mean(1)),
            nn.GRU(3, 4, batch_first=True, bidirectional=True),
            *(nn.LSTM(8, 4, num_layers=2, batch_first=True), nn.Linear(4, 5)),
        ),
        sample=(5, 3),
    ),
    "activations": Architecture(lambda: Function(_activations, *(nn.Linear(6, 6) for _ in range(10))), sample=(6,)),
    "pixel shuffle": Architecture(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(2, 3, 3), nn.PixelUnshuffle(2)),
            *(nn.Conv2d(12, 2, 1), _head(2)),
        ),
        sample=(3, 5, 5),
    ),
}


def network(name: str, seed: int) -> nn.Module:
    """A network with random parameters and statistics."""
    torch.manual_seed(seed)
    found = ARCHITECTURES[name]
    net = found.make().train(found.trains)
    with torch.no_grad():
        for key, value in [*net.named_parameters(), *net.named_buffers()]:
            if "running_var" in key:
                value.uniform_(0.5, 2)
            elif value.dim() == 1 and value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.2)
    return net


def data(name: str, batch: int, seed: int) -> torch.Tensor:
    """A batch for a network."""
    generator = torch.Generator().manual_seed(seed)
    found = ARCHITECTURES[name]
    if found.tokens:
        return torch.randint(found.tokens, (batch, *found.sample), generator=generator)
    return torch.randn(batch, *found.sample, generator=generator)


def export(name: str, net: nn.Module, exporter: str, folder: Path) -> onnx.ModelProto:
    """The forward graph with a batch that is not fixed, by "legacy" or "default"."""
    example = data(name, 4, 0)
    start = {key: value.detach().clone() for key, value in net.state_dict().items()}
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy exporter is deprecated, the other one warns of much
        if exporter == "legacy":
            file = io.BytesIO()
            mode = torch.onnx.TrainingMode.PRESERVE
            axes = {"x": {0: "N"}, "y": {0: "N"}}
            options = {"training": mode, "do_constant_folding": False, "opset_version": 17, "dynamic_axes": axes}
            torch.onnx.export(net, (example,), file, dynamo=False, **options, **names)
            model = onnx.load_from_string(file.getvalue())
        else:
            path = folder / "model.onnx"
            shapes = ({0: torch.export.Dim("N", min=2, max=4096)},)
            options = {"optimize": False, "external_data": False, "opset_version": 20, "dynamic_shapes": shapes}
            torch.onnx.export(net, (example,), str(path), dynamo=True, verbose=False, **options, **names)
            model = onnx.load(path)
    net.load_state_dict(start)  # the legacy exporter runs a network that trains
    return model
