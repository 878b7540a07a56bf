"""Batch norms of PyTorch's exporters train with the momentum that is said anew, as PyTorch's do."""

from __future__ import annotations

import functools
import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import onnx_cbp
from onnx_cbp.training import Artifacts, Trainer, generate_artifacts

pytestmark = [pytest.mark.torch, pytest.mark.training]

FORMS = ("default", "legacy, inference", "legacy")
#: Of the options, and PyTorch's by module.
MOMENTA = {
    "cumulative": ("cumulative", {"bn": None, "twice": None}),
    "a number": (0.75, {"bn": 0.25, "twice": 0.25}),
    "by module": ({"*twice*": "cumulative", "*bn*": 0.5}, {"bn": 0.5, "twice": None}),
}


def network(momentum):
    import torch
    from torch import nn

    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.bn, self.twice = nn.BatchNorm2d(4, momentum=momentum), nn.BatchNorm2d(4, momentum=momentum)
            self.fc = nn.Linear(4, 5)

        def forward(self, x):
            x = torch.tanh(self.bn(self.conv(x)))
            return self.fc(self.twice(torch.tanh(self.twice(x))).mean((2, 3)))

    torch.manual_seed(0)
    made = Layers()
    for module in (made.bn, made.twice):  # nothing is equal, so that no exporter makes it one tensor
        for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
            value.add_(torch.rand(4))
    return made


@functools.cache
def exported(momentum, form):
    import torch

    module = network(momentum)

    file = io.BytesIO()
    x = (torch.zeros(2, 3, 6, 6),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated
        if form == "default":
            sizes = ({0: torch.export.Dim("N", min=2)},)
            options = {"dynamo": True, "optimize": False, "dynamic_shapes": sizes, "verbose": False}
            return torch.onnx.export(module.eval(), x, **options).model_proto
        torch.onnx.export(
            module.train(form == "legacy"),
            x,
            file,
            input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


def batches():
    rng = np.random.default_rng(0)
    return [rng.normal(2.0, 3.0, (size, 3, 6, 6)).astype(np.float32) for size in (4, 7, 2)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", MOMENTA)
def test_running_statistics_are_pytorchs(case, form, tmp_path):
    import torch

    momentum, theirs = MOMENTA[case]
    before = 0.1 if form == "legacy" else None
    module, model = network(before), exported(before, form)
    generate_artifacts(
        model,
        [name for name, _ in module.named_parameters()],
        loss="CrossEntropyLoss",
        optimizer="AdamW",
        artifact_directory=tmp_path,
        train_batch_norms=() if form == "legacy" else "*",
        rewrite_options={"momentum": momentum, "unbiased_running_var": True},
        builder="onnxruntime",
    )
    options = onnxruntime.SessionOptions()
    onnx_cbp.register(options)
    trainer = Trainer.load(Artifacts.in_folder(tmp_path), options)
    want = module.double().train()
    written = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, buffer in want.named_buffers():
        if "running" in name:  # the older exporter has moved them
            buffer.copy_(torch.from_numpy(written[name].copy()))
    for name, value in theirs.items():
        getattr(want, name).momentum = value
    for x in batches():
        trainer.module.train()
        trainer.module(x, np.arange(len(x)) % 5)
        want(torch.from_numpy(x).double())
    found = {name: np.array(parameter.data) for name, parameter in trainer.state.parameters}
    for name, buffer in want.named_buffers():
        if "running" in name:
            np.testing.assert_allclose(found[name], buffer.numpy(), rtol=1e-5, atol=1e-5, err_msg=name)
        elif theirs[name.partition(".")[0]] is None:
            assert found[name] == buffer.numpy(), name


@pytest.mark.parametrize(
    ("form", "momenta"), [("default", [1, 1, 1]), ("legacy, inference", [1, 1, 1]), ("legacy", [0, 0, None])]
)
def test_what_exporters_make_of_none_is_said(form, momenta):
    """In train mode the older one writes 1 - 1/n of the n-th batch: of the first 0, and 1/2 of a second call."""
    found = onnx_cbp.inspect(exported(None, form))
    assert [f"momentum is {m}: " in f.explanation for f, m in zip(found, momenta, strict=True)] == [
        momentum is not None for momentum in momenta
    ]
