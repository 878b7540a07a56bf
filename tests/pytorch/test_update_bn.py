"""`update_bn` gives what `torch.optim.swa_utils.update_bn` gives."""

from __future__ import annotations

import copy
import io

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_cbp

pytestmark = pytest.mark.torch


def _network():
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.BatchNorm2d(3, affine=False),
        nn.Flatten(),
        nn.Linear(3 * 4 * 4, 5),
        nn.BatchNorm1d(5),
    )


def _exported(network, training):
    import torch

    file = io.BytesIO()
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        network,
        (torch.zeros(2, 2, 8, 8),),
        file,
        training=mode,
        do_constant_folding=False,
        dynamic_axes={"input": {0: "N"}},
        input_names=["input"],
        opset_version=15,
        dynamo=False,
    )
    return onnx.load_from_string(file.getvalue())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("momentum", [None, 0.7])
@pytest.mark.parametrize("training", [True, False])
def test_equals_pytorchs(training, momentum):
    import torch
    from torch.optim.swa_utils import update_bn

    torch.manual_seed(0)
    network = _network()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 2.0)
    if not training:
        network.eval()
        # or the exporter folds what it can, and the first batch norm is gone
        network.insert(1, torch.nn.Softplus())
        network.insert(5, torch.nn.Softplus())
        network.insert(9, torch.nn.Softplus())
        network.eval()
    batches = [torch.randn(size, 2, 8, 8) + 0.5 for size in (8, 8, 3)]
    model = _exported(copy.deepcopy(network), training)
    got = onnx_cbp.update_bn(
        model,
        [(x.numpy(), np.zeros(len(x))) for x in batches],
        unbiased_running_var=True,
        momentum=momentum,
    )
    want = network.double()
    if momentum is None:
        update_bn([x.double() for x in batches], want)
    else:
        present = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}  # the exporter moved them
        for name, module in want.named_modules():
            if hasattr(module, "running_mean"):
                module.momentum = 1 - momentum
                module.running_mean.copy_(torch.from_numpy(present[f"{name}.running_mean"].copy()))
                module.running_var.copy_(torch.from_numpy(present[f"{name}.running_var"].copy()))
        want.train()
        for x in batches:
            want(x.double())
    values = {t.name: numpy_helper.to_array(t) for t in got.graph.initializer}
    compared = 0
    for name, module in want.named_modules():
        if hasattr(module, "running_mean"):
            for statistic in ("running_mean", "running_var"):
                expected = getattr(module, statistic).numpy()
                np.testing.assert_allclose(values[f"{name}.{statistic}"], expected, rtol=1e-5, atol=1e-5)
                compared += 1
    assert compared == 6
