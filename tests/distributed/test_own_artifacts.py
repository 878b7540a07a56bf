"""Replicas in processes of their own train with artifacts of our builder as one process does with the whole batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_cbp.training import generate_artifacts
from onnx_cbp.training.optimizers import SGD
from support.engines import ENGINES
from support.replicas import start, steps_on_a_part
from support.stepping import NORMALISED, PERCEPTRON, network, normalised_weights, weights

pytestmark = pytest.mark.native
STEPS, BATCH = 4, 12

CONVOLUTION = """
<ir_version: 8, opset_import: ["" : OPSET]>
convolution (float[N, 2, AXES] x) => (float[N, 3] logits)
{
    filtered = Conv (x, w, b)
    normal, bn_mean, bn_var = BatchNormalization <training_mode: int = 1, momentum: float = 0.7>
        (filtered, scale, bias, mean, var)
    positive = Relu (normal)  pooled = GlobalAveragePool (positive)  flat = Flatten (pooled)  logits = Gemm (flat, v, c)
}"""


def _convolution(rank: int):
    rng = np.random.default_rng(rank)
    shapes = {"w": (4, 2, *(3,) * (rank - 2)), "b": (4,), "scale": (4,), "bias": (4,), "mean": (4,), "var": (4,)}
    shapes |= {"v": (4, 3), "c": (3,)}
    values = {name: rng.normal(0.5, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    values["var"] = np.square(values["var"])
    return network(CONVOLUTION.replace("AXES", ", ".join("6" * (rank - 2))), values)


#: What is trained, the shape of a sample, and where replicas divide the batch.
NETWORKS = {
    "without batch norms": (lambda: network(PERCEPTRON, weights(0)), (5,), [0, 5, 12]),
    "rank 2": (lambda: network(NORMALISED, normalised_weights(0)), (5,), [0, 9, 12]),
    "rank 3": (lambda: _convolution(3), (2, 6), [0, 1, 12]),
    "rank 4": (lambda: _convolution(4), (2, 6, 6), [0, 7, 12]),
    "rank 5": (lambda: _convolution(5), (2, 6, 6, 6), [0, 4, 12]),
}


def _make(model, sample: tuple[int, ...], bounds: list[int], folder: Path, **options) -> Path:
    folder.mkdir(parents=True)
    optimizer = SGD(momentum=0.9, max_grad_norm=1.0)
    made = {"loss": "CrossEntropyLoss", "optimizer": optimizer, "artifact_directory": folder, "builder": "onnx_cbp"}
    generate_artifacts(model, rewrite_options=options, **made)
    rng = np.random.default_rng(len(sample))
    x = rng.normal(1, 2, (STEPS, BATCH, *sample)).astype(np.float32) + np.arange(BATCH, dtype=np.float32).reshape(
        BATCH, *(1,) * len(sample)
    )
    np.savez(folder / "data.npz", x=x / 5, labels=rng.integers(0, 3, (STEPS, BATCH)), bounds=bounds)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, tuple[str, dict]]:
    """By network: the folder of its artifacts for replicas, and what comes of the whole batches in one process."""
    folder, made = tmp_path_factory.mktemp("artifacts"), {}
    for name, (model, sample, bounds) in NETWORKS.items():
        alone = _make(model(), sample, bounds, folder / "alone" / name)
        options = {"data_parallel": True, "synchronize": name != "without batch norms"}
        together = _make(model(), sample, bounds, folder / "together" / name, **options)
        made[name] = (str(together), steps_on_a_part(alone, None))
    return made


@pytest.mark.parametrize("engine", ENGINES)
def test_unequal_parts_are_one_batch(engine, trained, tmp_path):
    outcomes = start(engine, "trains_together", 2, tmp_path, folders=[folder for folder, _ in trained.values()])
    assert sorted(outcomes) == [0, 1]
    for rank, outcome in outcomes.items():
        assert "result" in outcome, outcome
        for name, (folder, want) in trained.items():
            got, where = outcome["result"][folder], f"{name}, replica {rank}"
            np.testing.assert_allclose(got["losses"], want["losses"], rtol=1e-5, err_msg=where)
            assert got["values"].keys() == want["values"].keys()
            for parameter, value in want["values"].items():
                atol = 1e-5 * max(np.abs(value).max(), 0.1)
                np.testing.assert_allclose(got["values"][parameter], value, rtol=0, atol=atol, err_msg=where)
