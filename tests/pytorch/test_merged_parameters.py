"""Fresh networks, whose equal parameters exporters merge, train as PyTorch trains them in float64."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_cbp.training import Artifacts, generate_artifacts
from support.training import trainer

torch = pytest.importorskip("torch", reason="PyTorch is not installed here")
from torch import nn  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.training, pytest.mark.native]


class _Block(nn.Module):
    """A batch norm in front of its convolution: an exporter cannot fold it."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.bn = (nn.BatchNorm1d, nn.BatchNorm2d)[rank - 1](channels)
        self.conv = (nn.Conv1d, nn.Conv2d)[rank - 1](channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(torch.tanh(self.bn(x)))


class _Network(nn.Module):
    """Two blocks, the first one called twice, and a classifier whose biases are zeros."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.first, self.second, self.fc = _Block(6, rank), _Block(6, rank), nn.Linear(6, 6)
        self.again = copy.deepcopy(self.fc)  # equal to it, and not tied
        nn.init.normal_(self.again.weight)
        nn.init.zeros_(self.fc.bias)
        nn.init.zeros_(self.again.bias)
        self.rank = rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(self.first(x)))
        return self.again(torch.tanh(self.fc(x.mean(tuple(range(2, 2 + self.rank))))))


def _export(network: nn.Module, x: torch.Tensor, exporter: str, folder: Path) -> onnx.ModelProto:
    state = copy.deepcopy(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            file = io.BytesIO()
            torch.onnx.export(network.eval(), (x,), file, dynamo=False, input_names=["x"], output_names=["logits"])
            model = onnx.load_from_string(file.getvalue())
        else:
            path = folder / "model.onnx"
            torch.onnx.export(
                network.eval(),
                (x,),
                str(path),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["x"],
                output_names=["logits"],
                optimize=exporter == "default",
            )
            model = onnx.load(path)
    network.load_state_dict(state)
    return model


@pytest.mark.parametrize(("rank", "exporter"), [(1, "default"), (1, "unoptimized"), (1, "legacy"), (2, "default")])
def test_fresh_networks(rank, exporter, tmp_path):
    torch.manual_seed(rank)
    network = _Network(rank)
    x = torch.randn(4, 6, *[5] * rank)
    model = _export(network, x, exporter, tmp_path)
    floats = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    given = {
        "of the file": [name for name in floats if "running" not in name and not name.startswith("val_")],
        "of the module": [name for name, _ in network.named_parameters()],
    }
    if exporter != "unoptimized":
        assert len(given["of the file"]) < len(given["of the module"]), "the exporter merged some"
    for whose, names in given.items():
        folder = tmp_path / whose
        folder.mkdir()
        generate_artifacts(
            model, names, loss="CrossEntropyLoss", optimizer="SGD", artifact_directory=folder, train_batch_norms="*"
        )
        _trains_as_pytorch(network, Artifacts.in_folder(folder), x)


def _trains_as_pytorch(network: nn.Module, artifacts: Artifacts, x: torch.Tensor) -> None:
    exact = copy.deepcopy(network).double().train()
    optimizer = torch.optim.SGD(exact.parameters(), lr=0.1)
    trained = trainer(artifacts, "auto", learning_rate=0.1)
    labels = np.arange(len(x)) % 3
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(exact(x.double()), torch.tensor(labels))
        loss.backward()
        assert trained.forward_backward((x.numpy(), labels)) == pytest.approx(loss.item(), abs=2e-6)
        got = trained.gradients()
        want = {name: parameter.grad.numpy() for name, parameter in exact.named_parameters()}
        assert set(got) == set(want)
        largest = max(np.abs(gradient).max() for gradient in want.values())
        for name, gradient in want.items():
            np.testing.assert_allclose(got[name], gradient, rtol=1e-4, atol=2e-6 * largest, err_msg=name)
        optimizer.step()
        trained.optimizer.step()
    after = trained.values()
    for name, value in exact.named_parameters():
        np.testing.assert_allclose(after[name], value.detach().numpy(), rtol=1e-4, atol=2e-6, err_msg=name)
    for name, value in exact.named_buffers():
        if name.endswith("running_mean"):
            np.testing.assert_allclose(after[name], value.numpy(), rtol=1e-4, atol=2e-6, err_msg=name)


class _Tied(nn.Module):
    """Two layers with one weight, and biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.bn(self.a(x))))


@pytest.mark.parametrize("exporter", ["unoptimized", "legacy"])
def test_tied_weights_stay_tied(exporter, tmp_path):
    torch.manual_seed(5)
    network, x = _Tied(), torch.randn(8, 6)
    model = _unfolded(network, x) if exporter == "legacy" else _export(network, x, exporter, tmp_path)
    names = [name for name, _ in network.named_parameters()]
    assert "b.weight" not in names
    generate_artifacts(
        model, names, loss="CrossEntropyLoss", optimizer="SGD", artifact_directory=tmp_path, train_batch_norms="*"
    )
    got = trainer(Artifacts.in_folder(tmp_path), "auto")
    labels = np.arange(len(x)) % 3
    exact = copy.deepcopy(network).double().train()
    loss = nn.functional.cross_entropy(exact(x.double()), torch.tensor(labels))
    loss.backward()
    assert got.forward_backward((x.numpy(), labels)) == pytest.approx(loss.item(), abs=2e-6)
    gradients = {name: gradient for name, gradient in got.gradients().items() if name.endswith(".weight")}
    (tied,) = [gradient for name, gradient in gradients.items() if name in ("a.weight", "b.weight")]
    np.testing.assert_allclose(tied, exact.a.weight.grad.numpy(), rtol=1e-4, atol=1e-6)


def _unfolded(network: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """As the legacy exporter writes it in evaluation mode, when it folds nothing."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (x,),
            file,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["x"],
            output_names=["logits"],
        )
    return onnx.load_from_string(file.getvalue())
