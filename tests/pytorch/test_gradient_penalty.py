"""The example of a gradient penalty equals PyTorch's double backward in float64."""

from __future__ import annotations

import numpy as np
import pytest

from support.programs.examples import load_example

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("hvp", [False, True])
def test_equals_pytorchs_double_backward(hvp, taps):
    import torch

    example = load_example("gradient_penalty")
    values = example.random_values(3, taps)
    got = example.run(example.session(example.build(taps, hvp=hvp)), values)

    tensors = {
        name: torch.from_numpy(value).requires_grad_(name in example.PARAMETERS) for name, value in values.items()
    }
    x, w, scale, B = (tensors[name].requires_grad_() for name in example.PARAMETERS)
    c = torch.nn.functional.conv1d(x, w)
    epsilon = float(np.float32(example.EPSILON))  # ONNX's attributes are floats
    y = torch.nn.functional.batch_norm(c, None, None, scale, B, training=True, eps=epsilon)
    loss = ((torch.relu(y) - tensors["t"]) ** 2).sum() / 2
    (dX,) = torch.autograd.grad(loss, x, create_graph=True)
    value = (tensors["v"] * dX).sum() if hvp else (dX**2).sum() / 2
    gradients = torch.autograd.grad(value, (x, w, scale, B))

    want = {"loss": loss, "x_grad": dX, "value": value}
    want |= {f"d_{name}": gradient for name, gradient in zip(example.PARAMETERS, gradients, strict=True)}
    for name, expected in want.items():
        array = expected.detach().numpy()
        np.testing.assert_allclose(got[name], array, rtol=1e-10, atol=1e-11 * np.abs(array).max(), err_msg=name)
