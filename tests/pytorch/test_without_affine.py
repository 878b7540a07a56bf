"""Batch norms without scale or bias, behind convolutions without bias: trained through ONNX Runtime's artifacts."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnx_cbp
from onnx_cbp.training import Artifacts, Trainer, load_artifacts
from support.models import op_types

pytestmark = [pytest.mark.torch, pytest.mark.training, pytest.mark.filterwarnings("ignore")]

#: Which of scale and bias are trained; what is not is one, or zero, and stays that.
KINDS = {"none": (False, False), "scale only": (True, False), "center only": (False, True), "mixed": (True, True)}
#: ONNX Runtime makes one of equal constants of up to 8 elements; its gradient builder then gives two
#: gradients one name, and no artifacts come out.
WIDTH = 10


def _network(kind):
    import torch
    from torch import nn

    torch.manual_seed(1)
    first, second = (nn.BatchNorm2d(WIDTH, affine=kind not in ("none", "mixed")) for _ in range(2))
    network = nn.Sequential(
        nn.Conv2d(2, WIDTH, 3, bias=False),
        first,
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, bias=False),
        second,
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, bias=False),
        nn.BatchNorm2d(WIDTH, affine=kind != "none"),  # in "mixed" the only one that is trained
        nn.Flatten(),
        nn.Linear(WIDTH * 4, 3),
    )
    scaled, centered = KINDS[kind]
    for module in network:
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            if scaled:
                nn.init.uniform_(module.weight, 0.5, 2.0)
            if centered:
                nn.init.normal_(module.bias)
            module.weight.requires_grad_(scaled)
            module.bias.requires_grad_(centered)
    return network


def _as_parameters(model):
    """Ones and zeros that are constants, as parameters that are not trained."""
    for node in list(model.graph.node):
        if node.op_type == "Constant":
            value = numpy_helper.to_array(node.attribute[0].t)
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            model.graph.node.remove(node)


def _artifacts(network, folder, as_parameters):
    import torch

    file = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.randn(2, 2, 8, 8),),
        file,
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
        dynamic_axes={"input": {0: "N"}},
        input_names=["input"],
        opset_version=15,
        dynamo=False,
    )
    model = onnx.load_from_string(file.getvalue())
    artifacts = load_artifacts()
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    if as_parameters:
        _as_parameters(model)
    frozen = sorted({tensor.name for tensor in model.graph.initializer} - set(trained))
    artifacts.generate_artifacts(
        model,
        requires_grad=trained,
        frozen_params=frozen,
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.SGD,
        artifact_directory=str(folder),
    )
    return dataclasses.replace(Artifacts.in_folder(folder), eval_model=None)


@pytest.mark.parametrize("as_parameters", [False, True])
@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_pytorchs_in_float64(kind, one_pass, as_parameters, tmp_path):
    import torch

    network = _network(kind)
    reference = _network(kind).double()
    artifacts = _artifacts(network, tmp_path, as_parameters)
    for name, buffer in reference.named_buffers():
        buffer.copy_(dict(network.named_buffers())[name])  # which the exporter moved
    rewritten = onnx_cbp.rewrite(artifacts.training_model, one_pass=one_pass)
    assert not {"BatchNormInternal", "BatchNormalizationGrad"} & set(op_types(rewritten))
    onnx.checker.check_model(rewritten, full_check=True)
    path = tmp_path / "rewritten.onnx"
    onnx.save(rewritten, path)
    options = ort.SessionOptions()
    onnx_cbp.register(options)
    trainer = Trainer.load(dataclasses.replace(artifacts, training_model=path), options)
    trainer.optimizer.set_learning_rate(0.05)
    descent = torch.optim.SGD([p for p in reference.parameters() if p.requires_grad], lr=0.05)
    rng = np.random.default_rng(0)
    reference.train()
    for _ in range(4):
        x = rng.normal(0.5, 2.0, (8, 2, 8, 8)).astype(np.float32)
        labels = rng.integers(0, 3, 8)
        loss = trainer.forward_backward((x, labels))
        descent.zero_grad()
        want = torch.nn.functional.cross_entropy(reference(torch.from_numpy(x).double()), torch.from_numpy(labels))
        want.backward()
        assert loss == pytest.approx(want.item(), rel=1e-4)
        gradients = trainer.gradients()
        trained = {name: p for name, p in reference.named_parameters() if p.requires_grad}
        assert set(gradients) == set(trained)
        for name, parameter in trained.items():
            size = max(p.grad.abs().max().item() for p in trained.values())
            np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), atol=1e-4 * size, err_msg=name)
        trainer.optimizer.step()
        descent.step()
    values, parameters = trainer.values(), dict(reference.named_parameters())
    for name, value in values.items():
        if name in parameters:
            np.testing.assert_allclose(value, parameters[name].detach().numpy(), atol=1e-4, err_msg=name)
    # PyTorch's running variance is unbiased, ONNX's is not.
    for name, buffer in reference.named_buffers():
        if name.endswith("running_mean"):
            np.testing.assert_allclose(values[name], buffer.numpy(), atol=1e-4, err_msg=name)
