"""A rewritten training graph takes the same steps as the original, for networks of every kind."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import onnx
import pytest

from onnx_cbp.training import Artifacts, compare_steps
from support.made_up.networks import random_batches, random_network
from support.training import MODELS, generate, rewrite, steps, trainer, with_relu_inputs

pytestmark = pytest.mark.training

STEPS = 20
LOSS = 1e-6
GRADIENTS = 5e-5
#: A ReLU's input that flips is within rounding of zero.
FLIP_SIZE = 5e-6


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # ONNX Runtime's gradient builder tells every step that it takes
    yield
    logging.disable(logging.NOTSET)


def _digits(seed, count=STEPS, size=32):
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = (data.images[:, None] / 16).astype(np.float32), data.target.astype(np.int64)
    rng = np.random.default_rng(seed)
    picks = [rng.permutation(len(labels))[:size] for _ in range(count)]
    return [(images[p], labels[p]) for p in picks]


def _assert_same_steps(artifacts, batches, folder, backend="auto", **options):
    original = with_relu_inputs(artifacts, folder)
    taken = steps(trainer(original), trainer(rewrite(original, folder, **options), backend), batches)
    assert max(step.loss for step in taken) <= LOSS
    assert max(step.flip_size for step in taken) <= FLIP_SIZE
    assert max(step.flips for step in taken) <= 4
    judged = [step.gradients for step in taken if not step.flips]
    assert len(judged) >= len(taken) / 2
    assert max(judged) <= GRADIENTS


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
@pytest.mark.parametrize("one_pass", [True, False])
def test_networks_made_up_on_the_spot(one_pass, rank, seed, tmp_path):
    seed = 100 * rank + seed
    print(f"seed {seed}")
    network = random_network(seed, rank)
    batches = random_batches(network, STEPS, seed)
    _assert_same_steps(generate(network, tmp_path), batches, tmp_path, one_pass=one_pass)


@pytest.mark.parametrize("rank", [2, 4])
def test_python_ops_take_the_same_steps(rank, tmp_path):
    network = random_network(rank, rank)
    batches = random_batches(network, STEPS, rank)
    _assert_same_steps(generate(network, tmp_path), batches, tmp_path, backend="python")


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_function_bodies_take_the_same_steps_without_a_library(rank, tmp_path):
    network = random_network(rank, rank)
    batches = random_batches(network, STEPS, rank)
    _assert_same_steps(generate(network, tmp_path), batches, tmp_path, backend=None, portable=True)


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_running_statistics_after_steps_at_learning_rate_zero(rank, tmp_path):
    network = random_network(50 + rank, rank)
    artifacts = generate(network, tmp_path)
    original = trainer(artifacts, learning_rate=0.0)
    rewritten = trainer(rewrite(artifacts, tmp_path), "auto", learning_rate=0.0)
    start = original.values()
    for batch in random_batches(network, 4, rank):
        original.step(batch)
        rewritten.step(batch)
    want, got = original.values(), rewritten.values()
    statistics = [name for name in want if "running" in name]
    assert len(statistics) >= 4
    for name in want:
        if name in statistics:
            assert np.abs(want[name] - start[name]).max() > 1e-3, "the steps moved it"
            np.testing.assert_allclose(got[name], want[name], rtol=1e-6, atol=1e-6 * np.abs(want[name]).max())
        else:
            np.testing.assert_array_equal(got[name], start[name])


def _loss_curve(artifacts, batches, backend=None, perturb=None):
    trained = trainer(artifacts, backend, learning_rate=1e-2)
    if perturb is not None:
        rng = np.random.default_rng(perturb)
        trained.set_values(
            {
                name: np.nextafter(value, rng.choice([-np.inf, np.inf], value.shape).astype(np.float32))
                for name, value in trained.values().items()
                if "running" not in name
            }
        )
    return np.array([trained.step(batch) for batch in batches])


def test_free_running_the_drift_is_that_of_one_ulp(tmp_path):
    # At this learning rate every run is chaotic; at lower ones a drift is a single ReLU that flips or does not.
    artifacts = Artifacts.in_folder(MODELS / "resnet_digits")
    rewritten = rewrite(artifacts, tmp_path)
    ours, ulp = [], []
    for seed in range(5):
        batches = _digits(seed, size=16)
        curve = _loss_curve(artifacts, batches)
        ours.append(np.abs(_loss_curve(rewritten, batches, "auto") - curve).max())
        perturbed = [_loss_curve(artifacts, batches, perturb=10 * seed + i) for i in range(2)]
        ulp.append(max(np.abs(other - curve).max() for other in perturbed))
    print(f"drift of the rewritten graph {ours}, of the original perturbed by one ulp {ulp}")
    assert max(ours) <= 3 * max(ulp)
    assert np.median(ours) <= 3 * np.median(ulp)


def test_compare_steps_measures_what_it_says(tmp_path):
    network = random_network(1, 2)
    artifacts = generate(network, tmp_path)
    batches = random_batches(network, 3, 1)
    same = compare_steps(trainer(artifacts), trainer(artifacts), batches)
    assert same.loss == same.largest_gradient == same.largest_statistic == 0.0
    assert len(same.by_step) == 3
    assert same.statistics
    # A graph with another epsilon and momentum is found out in all three.
    broken = onnx.load(artifacts.training_model)
    for node in broken.graph.node:
        for attribute in node.attribute:
            if node.op_type == "BatchNormInternal" and attribute.name in ("momentum", "epsilon"):
                attribute.f *= 0.5
    path = tmp_path / "broken.onnx"
    onnx.save(broken, path)
    other = trainer(dataclasses.replace(artifacts, training_model=path))
    different = compare_steps(trainer(artifacts), other, batches)
    assert different.loss > 1e-6
    assert different.largest_gradient > 1e-5
    assert different.largest_statistic > 0.01
