"""The same training script on ONNX Runtime's training API and on ours: one import differs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import onnx_cbp
from onnx_cbp.training import api as ours
from onnx_cbp.training import generate_artifacts, load_api
from support.made_up.networks import random_batches, random_network

pytestmark = pytest.mark.training
STEPS = 6


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def script(api: Any, folder: Path, data: list, accumulate: int = 1) -> tuple[list[float], dict[str, np.ndarray]]:
    """What a user writes; `api` is what is imported."""
    state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = api.Module(str(folder / "training_model.onnx"), state, str(folder / "eval_model.onnx"))
    optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(2e-3)  # not more: an AdamW follows the rounding of gradients that are nearly zero
    losses = []
    for number, batch in enumerate(data):
        module.train()
        losses.append(float(module(*batch)))
        if number % accumulate == accumulate - 1:
            optimizer.step()
            module.lazy_reset_grad()
        module.eval()
        losses.append(float(module(*batch)))
    state.properties["steps"] = len(data)
    api.CheckpointState.save_checkpoint(state, str(folder / "saved"), include_optimizer_state=True)
    return losses, {name: np.array(parameter.data) for name, parameter in state.parameters}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize(("seed", "rank"), [(1, 2), (2, 4), (3, 3)])
def test_the_losses_are_the_same(seed, rank, optimizer, accumulate, tmp_path):
    print("seed", seed)
    model = random_network(seed, rank)
    names = [tensor.name for tensor in model.graph.initializer if "running" not in tensor.name]
    data = [tuple(batch) for batch in random_batches(model, STEPS, seed)]
    got = {}
    for builder, api in (("onnxruntime", load_api()), ("onnx_cbp", ours)):
        folder = tmp_path / builder
        folder.mkdir()
        generate_artifacts(
            model,
            requires_grad=names,
            loss="CrossEntropyLoss",
            optimizer=optimizer,
            artifact_directory=folder,
            builder=builder,
        )
        if builder == "onnxruntime":
            options = ort.SessionOptions()
            onnx_cbp.register(options)
            api = _WithOptions(api, options)
        got[builder] = script(api, folder, data, accumulate)
    (want, values), (losses, own) = got["onnxruntime"], got["onnx_cbp"]
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    assert set(own) == set(values)
    # ONNX Runtime's files are ours, too; a training goes on from them with its optimiser.
    theirs = ours.CheckpointState.load_checkpoint(tmp_path / "onnxruntime" / "saved")
    module = ours.Module(tmp_path / "onnx_cbp" / "training_model.onnx", theirs)
    step = ours.Optimizer(tmp_path / "onnx_cbp" / "optimizer_model.onnx", module)
    if optimizer == "AdamW":
        assert step._session.steps == STEPS // accumulate
    assert theirs.properties["steps"] == STEPS
    for name, parameter in theirs.parameters:
        np.testing.assert_array_equal(parameter.data, values[name])


class _WithOptions:
    """ONNX Runtime's API, with the options that its Module needs for our ops."""

    def __init__(self, api: Any, options: Any) -> None:
        self._api, self._options = api, options
        self.CheckpointState, self.Optimizer = api.CheckpointState, api.Optimizer

    def Module(self, *arguments: Any) -> Any:  # noqa: N802 - as it is called there
        return self._api.Module(*arguments, session_options=self._options)
