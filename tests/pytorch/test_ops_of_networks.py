"""Networks of ops that ONNX Runtime's gradient builder has not, or has wrong: a step against PyTorch's in float64."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import onnx
import pytest

from onnx_cbp.training import Artifacts, generate_artifacts
from support.training import trainer

torch = pytest.importorskip("torch", reason="PyTorch is not installed here")
from torch import nn  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.training, pytest.mark.native]


class _Excite(nn.Module):
    """A squeeze and an excitation, as in MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * nn.functional.hardsigmoid(self.conv(x.mean((2, 3), keepdim=True)))


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]


NETWORKS = {
    "mobile": lambda: [
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(), _Excite(8)),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish(), *_head(8)),
    ],
    "dense": lambda: [
        *(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ELU(), nn.AvgPool2d(2, 2), nn.Conv2d(8, 8, 1)),
        *(nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), *_head(8)),
    ],
    "u": lambda: [
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Softplus(), nn.ConvTranspose2d(8, 6, 4, 2, 1)),
        *(nn.BatchNorm2d(6), nn.Tanh(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(6, 8, 3), *_head(8)),
    ],
    "groups": lambda: [
        *(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SELU(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8, affine=True)),
        *(nn.PReLU(8), nn.LayerNorm(4), *_head(8)),
    ],
    "shuffled": lambda: [
        *(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8), nn.PixelShuffle(2), nn.Mish()),
        *(nn.Conv2d(2, 8, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ],
    "solid": lambda: [
        *(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Tanh()),
        *(nn.AvgPool3d((1, 2, 2), padding=(0, 1, 0)), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1)),
        *(nn.Flatten(), nn.Linear(4, 4)),
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_pytorchs(name, tmp_path):
    torch.manual_seed(7)
    network = nn.Sequential(*NETWORKS[name]())
    exact = copy.deepcopy(network).double().train()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.train(),
            (torch.randn(4, 3, 8, 8),),
            file,
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "N"}},
        )
    names = [each for each, _ in network.named_parameters()]
    generate_artifacts(
        onnx.load_from_string(file.getvalue()),
        names,
        loss="CrossEntropyLoss",
        optimizer="SGD",
        artifact_directory=tmp_path,
        builder="onnxruntime",
    )
    trained = trainer(Artifacts.in_folder(tmp_path), "auto")
    size = 4 if name == "solid" else 6  # the exporter takes the batch behind an Unflatten for a fixed one
    x, labels = torch.randn(size, 3, 8, 8), np.arange(size) % 4
    loss = nn.functional.cross_entropy(exact(x.double()), torch.tensor(labels))
    loss.backward()
    assert trained.forward_backward((x.numpy(), labels)) == pytest.approx(loss.item(), abs=2e-6)
    got, want = trained.gradients(), {each: value.grad.numpy() for each, value in exact.named_parameters()}
    assert set(got) == set(want)
    largest = max(np.abs(gradient).max() for gradient in want.values())
    for each, gradient in want.items():  # that of a bias before a batch norm is zero, but for rounding
        np.testing.assert_allclose(got[each], gradient, rtol=2e-5, atol=2e-6 * largest, err_msg=each)
