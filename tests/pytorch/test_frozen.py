"""Fine-tuning as PyTorch does it: `bn.eval()` in a model that trains."""

from __future__ import annotations

import io
import logging
import warnings

import numpy as np
import onnx
import pytest

from onnx_cbp.training import Artifacts, compare_steps, generate_artifacts
from onnx_cbp.training.compare import gradient_differences
from support.training import generate, trainer

pytestmark = [pytest.mark.torch, pytest.mark.training]

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # ONNX Runtime's gradient builder tells every step that it takes
    yield
    logging.disable(logging.NOTSET)


def _network(seed, frozen):
    """A small residual network with statistics that are not those of a batch; the batch norms named are in eval()."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
            self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-3)
            self.fc = nn.Linear(6, 5)

        def forward(self, x):
            h = torch.tanh(self.bn1(self.conv1(x)))
            return self.fc((h + torch.tanh(self.bn2(self.conv2(h)))).mean((2, 3)))

    torch.manual_seed(seed)
    model = Residual().train()
    for name in ("bn1", "bn2"):
        layer = getattr(model, name)
        for value in (layer.weight.data, layer.bias.data, layer.running_mean):
            value.add_(torch.randn(6) * 0.3)
        layer.running_var.mul_(torch.rand(6) + 0.5)
        if name in frozen:
            layer.eval()
    return model


def _exported(model, x):
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is the one that keeps the training mode, and is deprecated
        torch.onnx.export(
            model,
            (x,),
            buffer,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


@pytest.mark.parametrize("frozen", [("bn1",), ("bn2",), ("bn1", "bn2")])
@pytest.mark.parametrize("without_scale", [False, True])
def test_gradients_are_those_of_a_batch_norm_in_eval(without_scale, frozen, tmp_path):
    import torch

    model = _network(1, frozen)
    if without_scale:
        for name in frozen:
            getattr(model, name).requires_grad_(False)
    x, labels = torch.randn(8, 3, 6, 5) * 2 + 1, torch.arange(8) % 5
    exported = _exported(model, x)  # before the step, which moves the statistics of what trains
    before = {name: value.clone() for name, value in model.named_buffers()}
    double = model.double()
    loss = torch.nn.functional.cross_entropy(double(x.double()), labels)
    loss.backward()
    want_loss = loss.item()
    want = {name: p.grad.numpy() for name, p in double.named_parameters() if p.grad is not None}
    data = (x.numpy(), labels.numpy().astype(np.int64))

    (tmp_path / "theirs").mkdir()
    theirs = trainer(generate(exported, tmp_path / "theirs"))
    assert abs(theirs.forward_backward(data) - want_loss) > 1e-3
    got = {name: value for name, value in theirs.gradients().items() if name in want}
    assert max(gradient_differences(want, got).values()) > 0.05

    fixed = [name for name, _ in model.named_parameters() if name not in want]
    statistics = [name for name in before if "running" in name]
    generate_artifacts(
        exported,
        requires_grad=list(want),
        frozen_params=fixed + statistics,
        loss="CrossEntropyLoss",
        optimizer="AdamW",
        artifact_directory=tmp_path,
    )
    ours = trainer(Artifacts.in_folder(tmp_path), "auto", learning_rate=1e-2)
    assert ours.forward_backward(data) == pytest.approx(want_loss, abs=1e-6)
    assert max(gradient_differences(want, ours.gradients()).values()) <= TOLERANCE
    for _ in range(3):
        ours.step(data)
    after = ours.values()
    for name in statistics:
        same = np.array_equal(after[name], before[name].numpy())
        assert same == (name.split(".")[0] in frozen)


def test_nothing_frozen_takes_the_steps_of_onnx_runtimes(tmp_path):
    import torch

    x = torch.randn(8, 3, 6, 5)
    exported = _exported(_network(2, ()), x)
    (tmp_path / "theirs").mkdir()
    theirs = trainer(generate(exported, tmp_path / "theirs"))
    names = [tensor.name for tensor in exported.graph.initializer if "running" not in tensor.name]
    generate_artifacts(exported, names, loss="CrossEntropyLoss", optimizer="AdamW", artifact_directory=tmp_path)
    rng = np.random.default_rng(0)
    data = [(rng.normal(0, 1, (8, 3, 6, 5)).astype(np.float32), rng.integers(0, 5, 8)) for _ in range(4)]
    differences = compare_steps(theirs, trainer(Artifacts.in_folder(tmp_path), "auto"), data)
    assert differences.loss <= 1e-6
    assert differences.largest_gradient <= 5e-5
    assert differences.largest_statistic <= 1e-6


class _Stages:
    """Two stages of convolutions and batch norms, made on demand so that the module is imported without PyTorch."""

    def __new__(cls):
        import torch
        from torch import nn

        def stage(width):
            return nn.Sequential(
                nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            )

        class Stages(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer1, self.layer2, self.fc = stage(3), stage(4), nn.Linear(4, 5)

            def forward(self, x):
                return self.fc(self.layer2(torch.tanh(self.layer1(x))).mean((2, 3)))

        torch.manual_seed(0)
        network = Stages()
        for value in network.state_dict().values():
            if value.ndim == 1:  # or the exporter makes one tensor of those that are equal
                value.add_(torch.rand(value.shape))
        return network.eval()


@pytest.mark.parametrize(("patterns", "frozen"), [("layer1", 2), ("layer?.4", 2), (["layer2.1", "layer1.*"], 3)])
def test_batch_norms_are_chosen_by_module_in_the_default_exporters_models(patterns, frozen, tmp_path):
    import torch

    import onnx_cbp

    network = _Stages()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.zeros(2, 3, 4, 4)
        model = torch.onnx.export(network, (x,), dynamo=True, optimize=False, verbose=False).model_proto
    modules = [f.module for f in onnx_cbp.inspect(model)]
    assert modules == ["layer1.1", "layer1.4", "layer2.1", "layer2.4"]
    trained = [name for name, _ in network.named_parameters()]
    options = {"train_batch_norms": "layer*", "rewrite_options": {"freeze": patterns}}
    generate_artifacts(model, trained, loss="CrossEntropyLoss", artifact_directory=tmp_path, **options)
    found = {f.module: f.form for f in onnx_cbp.inspect(tmp_path / "training_model.onnx") if f.module}
    assert list(found) == modules
    assert sum("frozen" in form for form in found.values()) == frozen
