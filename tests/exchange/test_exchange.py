"""A model that one environment rewrote runs in the others, with the same results."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from support.ops import session

FOLDER = os.environ.get("ONNX_CBP_EXCHANGE")
MODELS = sorted(Path(FOLDER).glob("*/*.onnx")) if FOLDER else []

pytestmark = pytest.mark.skipif(
    not MODELS, reason="ONNX_CBP_EXCHANGE names no folder of models that other environments wrote; nox sets it"
)


def _id(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", [p for p in MODELS if not p.stem.endswith(".training")], ids=_id)
def test_forward(path):
    with np.load(path.with_suffix(".npz")) as recorded:
        feeds = {key[3:]: recorded[key] for key in recorded if key.startswith("in/")}
        want = {key[4:]: recorded[key] for key in recorded if key.startswith("out/")}
    backend = None if path.stem.endswith("_portable") else "auto"
    results = session(onnx.load(path), backend).run(list(want), feeds)
    for got, expected in zip(results, want.values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.training
@pytest.mark.parametrize("path", [p for p in MODELS if p.stem.endswith(".training")], ids=_id)
def test_training(path):
    from onnx_cbp.training import Artifacts, compare_steps
    from support.training import MODELS as SAMPLES
    from support.training import trainer

    artifacts = Artifacts.in_folder(SAMPLES / path.stem.split(".")[0])
    rewritten = trainer(dataclasses.replace(artifacts, training_model=path), "auto")
    rng = np.random.default_rng(0)
    batches = [(rng.uniform(size=(16, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 16)) for _ in range(3)]
    differences = compare_steps(trainer(artifacts), rewritten, batches)
    assert differences.loss < 1e-6
    assert np.median(differences.by_step) < 5e-5
    assert differences.largest_statistic < 1e-6
