"""Running statistics by PyTorch's convention are PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import onnx_cbp
from support.models import FORWARD, parse
from support.ops import session

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("one_pass", [True, False])
def test_ten_steps_equal_pytorchs(one_pass):
    import torch

    layer = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.2, dtype=torch.float64)
    run = session(onnx_cbp.rewrite(parse(FORWARD), unbiased_running_var=True, one_pass=one_pass), "auto")
    rng = np.random.default_rng(3)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    weights = {"gamma": np.ones(3, np.float32), "beta": np.zeros(3, np.float32)}
    for _ in range(10):
        x = rng.normal(1.0, 2.0, (2, 3, 2, 2)).astype(np.float32)
        y, mean, var = run.run(None, {"x": x, **weights, "mean": mean, "var": var})
        want = layer(torch.from_numpy(x.astype(np.float64))).detach().numpy()
        np.testing.assert_allclose(y, want, atol=1e-5)
    np.testing.assert_allclose(mean, layer.running_mean.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, layer.running_var.numpy(), rtol=2e-6)
