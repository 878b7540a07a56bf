"""Replicas of ordinary training artifacts take the steps that one process takes with the whole batch.

`rewrite(synchronize=..., data_parallel=True)` is all that is done to them. One process trains the original graph; each
of its steps is taken by R replicas too, from the same state, each with a part of the batch.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

import pytest

from onnx_cbp.training import Artifacts
from support.engines import ONE_OF_PROCESSES
from support.following import Task, follow
from support.gradients.switches import batches
from support.made_up.networks import random_batches, random_network
from support.training import MODELS, generate

NAMES = sorted(path.parent.name for path in MODELS.glob("*/training_model.onnx"))
pytestmark = [pytest.mark.training, pytest.mark.native]

STEPS = 6


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # ONNX Runtime's gradient builder tells every step that it takes
    yield
    logging.disable(logging.NOTSET)


def _exact(name: str):
    if not find_spec("torch"):
        return None
    from support.gradients.sample_gradients import in_float64

    return in_float64(name)


@pytest.mark.parametrize(
    ("engine", "replicas"),
    # What an engine carries does not depend on how many there are.
    [
        *(("threads", number) for number in (2, 3, 4)),
        pytest.param("mpi", 2, marks=pytest.mark.mpi),
        pytest.param("mpi", 4, marks=[pytest.mark.mpi, pytest.mark.thorough]),
        pytest.param("torch", 3, marks=pytest.mark.torch),
    ],
)
def test_the_sample_models(engine, replicas, tmp_path):
    tasks = []
    for name in NAMES:
        artifacts, folder = Artifacts.in_folder(MODELS / name), tmp_path / name
        folder.mkdir()
        made = batches(artifacts, STEPS, seed=replicas)
        tasks.append(Task(artifacts, made, folder, [list(range(replicas))], exact=_exact(name), synchronize=True))
    follow(engine, tmp_path, *tasks)


@pytest.mark.parametrize(
    ("group", "parts"), [("size:2", [[0, 1], [2, 3]]), ("odd", [[0, 2, 3], [1]])], ids=["of two", "named"]
)
@pytest.mark.parametrize("engine", ONE_OF_PROCESSES)
def test_groups(engine, group, parts, tmp_path):
    artifacts = Artifacts.in_folder(MODELS / "resnet_digits")
    made = batches(artifacts, STEPS, seed=9)
    bounds = {number: [0, 5, 9, 10, len(batch[0])] for number, batch in enumerate(made)}
    groups = None if group.startswith("size") else {group: parts}
    follow(engine, tmp_path, Task(artifacts, made, tmp_path, parts, bounds, synchronize=group), groups=groups)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_networks_made_up_on_the_spot(rank, seed, tmp_path):
    seed = 700 + 10 * rank + seed
    print(f"seed {seed}")
    network = random_network(seed, rank)
    artifacts = generate(network, tmp_path)
    replicas = 2 + seed % 3
    made, parts = random_batches(network, STEPS, seed), [list(range(replicas))]
    follow("threads", tmp_path, Task(artifacts, made, tmp_path, parts, synchronize=True))


@pytest.mark.parametrize("engine", ONE_OF_PROCESSES)
def test_a_replica_without_samples(engine, tmp_path):
    artifacts = Artifacts.in_folder(MODELS / "resnet_digits")
    made = batches(artifacts, STEPS, seed=4)
    turns = [[0, 0, 6, -1], [0, 6, 6, -1], [0, 1, -1, -1]]  # each replica has none once
    bounds = {i: [len(b[0]) if at < 0 else at for at in turns[i % 3]] for i, b in enumerate(made)}
    follow(engine, tmp_path, Task(artifacts, made, tmp_path, [[0, 1, 2]], bounds, synchronize=True))
