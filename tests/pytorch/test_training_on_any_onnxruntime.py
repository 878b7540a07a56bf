"""Networks of PyTorch's two exporters, trained by our graphs on a plain session: its own steps in float64."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed here")
pytest.importorskip("onnxscript", reason="PyTorch's default exporter needs onnxscript")

import torch
from torch import nn

from onnx_cbp.training.optimizers import SGD
from support.made_up.torch_networks import CLASSES, EXPORTERS, Network, export
from support.stepping import Training

BATCH, STEPS, RATE = 9, 3, 0.05


def _batches(seed):
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((BATCH, 3, 6, 6)).astype(np.float32), rng.integers(0, CLASSES, BATCH))
        for _ in range(STEPS)
    ]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("seed", "frozen"), [(0, False), (1, True), (4, False)])
def test_steps_are_pytorchs(seed, frozen, exporter, tmp_path):
    print("seed", seed)
    net = Network(seed, frozen=frozen and exporter == "legacy")  # the default exporter tells no mode of a batch norm
    model = export(net, exporter, tmp_path)
    arguments = {"train_batch_norms": "*"} if exporter == "default" else {}
    known = {tensor.name for tensor in model.graph.initializer}
    named = [name for name in net.trained() if name in known]
    trained = Training(
        model,
        tmp_path / "artifacts",
        optimizer=SGD(momentum=0.9, weight_decay=1e-3),
        requires_grad=named if frozen else None,
        rewrite_options={"unbiased_running_var": True},
        **arguments,
    )
    assert {name for name, p in trained.state.parameters if p.requires_grad} == set(named)
    trained.optimizer.set_learning_rate(RATE)
    own = copy.deepcopy(net).double().train()
    steps = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], RATE, momentum=0.9, weight_decay=1e-3)
    for number, (x, labels) in enumerate(_batches(seed)):
        steps.zero_grad()
        loss = nn.functional.cross_entropy(own(torch.tensor(x).double()), torch.tensor(labels))
        loss.backward()
        got = float(trained.module(x, labels))
        assert got == pytest.approx(loss.item(), rel=1e-6 if number == 0 else 1e-5)
        if number == 0:
            single = copy.deepcopy(net).train()
            nn.functional.cross_entropy(single(torch.tensor(x)), torch.tensor(labels)).backward()
            _compare_gradients(trained, own, single, named)
        steps.step()
        trained.optimizer.step()
        trained.module.lazy_reset_grad()
    after = {name: value.detach().numpy() for name, value in own.state_dict().items()}
    for name, value in trained.values().items():
        np.testing.assert_allclose(value, after[name], rtol=1e-4, atol=1e-5)
    moved = {name for name in net.statistics() if name in trained.values()}
    assert moved == {name for name in net.statistics() if name in known}
    own.eval()
    trained.module.eval()
    x, labels = _batches(seed + 100)[0]
    with torch.no_grad():
        want = nn.functional.cross_entropy(own(torch.tensor(x).double()), torch.tensor(labels)).item()
    assert float(trained.module(x, labels)) == pytest.approx(want, rel=1e-4)
    onnx.checker.check_model(onnx.load(tmp_path / "artifacts" / "eval_model.onnx"), full_check=True)


def _compare_gradients(trained, own, single, named):
    """As near to float64 as 1e-5, or as PyTorch is in float32 for the same tensor, where differences cancel."""
    want = {name: p.grad.numpy() for name, p in own.named_parameters() if p.grad is not None}
    torchs = {name: p.grad.numpy() for name, p in single.named_parameters() if p.grad is not None}
    largest = max(np.abs(gradient).max() for gradient in want.values())
    for name in named:
        size = max(np.abs(want[name]).max(), 1e-2 * largest)  # a bias before a batch norm has none but rounding
        error = np.abs(trained.state.parameters[name].grad - want[name]).max()
        assert error <= max(1e-5 * size, np.abs(torchs[name] - want[name]).max()), name
