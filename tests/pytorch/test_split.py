"""Networks that split channels, by PyTorch's default exporter: finalized, and trained. Judged in float64."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.models import op_types
from support.ops import session

pytestmark = pytest.mark.torch

CLASSES = 5


def _network():
    """Parts of equal and of other sizes, along an axis from the front and from behind; slices without their axis."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.branch, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.linear = nn.Linear(6, CLASSES)

        def forward(self, x):
            kept, way = torch.tanh(self.norm1(self.first(x))).chunk(2, dim=1)
            x = torch.cat([kept, torch.tanh(self.norm2(self.branch(way)))], 1).permute(0, 2, 3, 1)
            three, one, four = torch.split(x, [3, 1, 4], dim=-1)
            a, b = four.unflatten(-1, (2, 2)).unbind(-2)
            x = torch.cat([three * one, a + b, one], -1)
            return self.linear(x.mean((1, 2)))

    torch.manual_seed(0)
    return Network()


@pytest.fixture(scope="module")
def exported():
    """The network, and its file by the default exporter as it is before optimisations."""
    import torch

    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    network = _network()
    x = torch.randn(6, 3, 8, 8)
    network(x)  # running statistics of its own
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        program = torch.onnx.export(
            copy.deepcopy(network),
            (x,),
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes={"x": {0: torch.export.Dim("N")}},
            input_names=["x"],
            output_names=["logits"],
        )
    model = program.model_proto
    assert {"SplitToSequence", "SequenceAt"} <= set(op_types(model))
    return network, model


def test_finalized(exported):
    import torch

    network, model = exported
    final = onnx_cbp.finalize(model)
    onnx.checker.check_model(final, full_check=True)
    assert "Sequence" not in str(final)
    assert "BatchNormalization" not in op_types(final)
    x = np.random.default_rng(1).normal(size=(7, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        want = copy.deepcopy(network).double()(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(session(final, None).run(None, {"x": x})[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.training
@pytest.mark.native
def test_trained(exported, tmp_path):
    import torch

    from onnx_cbp.training import Artifacts, generate_artifacts
    from onnx_cbp.training.compare import gradient_differences
    from support.training import trainer

    network, model = exported
    network = copy.deepcopy(network).double().train()
    names = [name for name, _ in network.named_parameters()]
    generate_artifacts(
        model,
        requires_grad=names,
        loss="CrossEntropyLoss",
        optimizer="AdamW",
        artifact_directory=tmp_path,
        train_batch_norms="*",
    )
    found = trainer(Artifacts.in_folder(tmp_path), "auto")
    x = np.random.default_rng(2).normal(size=(6, 3, 8, 8)).astype(np.float32)
    labels = np.arange(6) % CLASSES
    found.forward_backward((x, labels))
    torch.nn.functional.cross_entropy(network(torch.from_numpy(x).double()), torch.from_numpy(labels)).backward()
    want = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    assert max(gradient_differences(want, found.gradients()).values()) <= 1e-5
