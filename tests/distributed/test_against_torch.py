"""A synchronized batch norm has the numbers that PyTorch has for the whole batch, in float64.

torch.nn.SyncBatchNorm, which defines the same, runs on GPUs only.
"""

from __future__ import annotations

import numpy as np
import pytest

import onnx_cbp
from onnx_cbp import distributed
from support.models import FORWARD, TRAINING, parse
from support.ops import session

pytestmark = [pytest.mark.torch, pytest.mark.training, pytest.mark.native]

EPSILON, MOMENTUM = 0.001, 0.8
BOUNDS = [0, 5, 6, 13]
CONSTANTS = """{
    running_mean = Constant <value = double[3] {0.0, 0.0, 0.0}> ()
    running_var = Constant <value = double[3] {1.0, 1.0, 1.0}> ()
"""


def test_three_replicas_are_one_big_batch():
    import torch

    rng = np.random.default_rng(0)
    whole = {name: rng.normal(3.0, 2.0, (13, 3, 4, 6)) for name in ("x", "y_grad")}
    whole["x"] += np.arange(13).reshape(-1, 1, 1, 1)  # shards whose own statistics would be others
    vectors = {name: rng.uniform(0.5, 2.0, 3) for name in ("gamma", "beta", "running_mean", "running_var")}
    # ONNX Runtime has no InPlaceAccumulatorV2 for doubles: the running statistics are those of a forward graph.
    text = TRAINING.replace("float[3] running_mean, float[3] running_var,", "")
    training, forward = (
        onnx_cbp.rewrite(parse(model.replace("float[", "double[")), synchronize=True)
        for model in (text.replace("{\n", CONSTANTS, 1), FORWARD)
    )

    def replicate():
        first, last = BOUNDS[distributed.rank() : distributed.rank() + 2]
        fed = {name: value[first:last] for name, value in whole.items()}
        backward = {name: vectors[name] for name in ("gamma", "beta")}
        results = session(training, "native").run(None, {**fed, **backward})
        before = {"mean": vectors["running_mean"], "var": vectors["running_var"]}
        return [*results, *session(forward, "native").run(None, {"x": fed["x"], **backward, **before})[1:]]

    found = distributed.run_replicas(replicate, 3, timeout=60)
    x, gamma, beta = (torch.tensor(v, requires_grad=True) for v in (whole["x"], vectors["gamma"], vectors["beta"]))
    y = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True, eps=EPSILON)
    y.backward(torch.tensor(whole["y_grad"]))
    want = [y.detach(), x.grad, gamma.grad, beta.grad]
    got = [np.concatenate([mine[i] for mine in found]) for i in (0, 1)]
    got += [sum(mine[i] for mine in found) for i in (2, 3)]  # of parameters: local, and summed by data_parallel
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-11, atol=1e-12 * np.abs(theirs.numpy()).max())
    flat = whole["x"].transpose(1, 0, 2, 3).reshape(3, -1)
    for mine in found:
        for running, batch, name in ((mine[4], flat.mean(1), "mean"), (mine[5], flat.var(1), "var")):
            expected = MOMENTUM * vectors[f"running_{name}"] + (1 - MOMENTUM) * batch
            np.testing.assert_allclose(running, expected, rtol=1e-6)  # momentum is a float attribute
