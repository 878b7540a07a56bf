"""Collectives in ONNX Runtime's training Module, which holds Python's interpreter lock for a whole step."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_cbp
from onnx_cbp import distributed
from support.engines import ENGINES
from support.replicas import module_batch, module_steps, start
from support.training import MODELS

pytestmark = [pytest.mark.training, pytest.mark.native]


@pytest.fixture
def training_model(tmp_path) -> str:
    """A sample model with a bucket of its own for every gradient of a vector."""
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "conv1d_signals", folder)
    model = onnx_cbp.rewrite(folder / "training_model.onnx")
    nodes = list(model.graph.node)
    shapes = {v.name: v.type.tensor_type.shape for v in (*model.graph.input, *model.graph.value_info)}
    for i, node in reversed(list(enumerate(nodes))):
        if node.op_type != "InPlaceAccumulatorV2" or "grad" not in node.input[0]:
            continue
        parameter = node.input[0].split("_grad")[0]
        if len(shapes[parameter].dim) == 1:
            own, node.input[1] = node.input[1], f"{node.input[1]}_reduced"
            bucket = helper.make_node(
                *("AllReduceBucket", [own], [node.input[1]]),
                domain="onnx_cbp",
                group="world",
                reduction="sum",
                layer=parameter,
            )
            model.graph.node.insert(i, bucket)
    assert sum(node.op_type == "AllReduceBucket" for node in model.graph.node) >= 8
    path = folder / "training_model.onnx"
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_are_summed(engine, training_model, tmp_path):
    alone = _gradients_alone(training_model)
    folder = tmp_path / "results"
    folder.mkdir()
    outcomes = start(engine, "module_steps", 2, folder, training_model=training_model)
    summed = 0
    for name, (first, second) in alone.items():
        assert "result" in outcomes[0], outcomes
        got = [np.array(outcomes[rank]["result"][name]) for rank in range(2)]
        if first.ndim == 1:
            summed += 1
            np.testing.assert_allclose(got[0], first + second, rtol=1e-5, atol=1e-6, err_msg=name)
            np.testing.assert_array_equal(got[0], got[1], err_msg=name)
    assert summed >= 8


def _gradients_alone(training_model: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each parameter's gradient for the batch of either replica, by a single one."""
    from onnx_cbp.training import Artifacts
    from support.training import trainer

    folder = Path(training_model).parent
    made = trainer(Artifacts(Path(training_model), folder / "checkpoint", folder / "optimizer_model.onnx"), "native")
    found = []
    for rank in range(2):
        for _ in range(2):  # a running statistic must not tell the runs apart
            made.forward_backward(module_batch(training_model, rank))
        found.append(made.gradients())
    return {name: (found[0][name], found[1][name]) for name in found[0]}


def test_the_parallel_execution_mode_is_refused_and_does_not_hang(training_model):
    # The step holds the interpreter lock while a thread of the pool would wait for it.
    def replicate() -> str:
        with pytest.raises(Exception, match="use execution_mode ORT_SEQUENTIAL") as caught:
            module_steps(training_model, parallel=True)
        return str(caught.value)

    for message in distributed.run_replicas(replicate, 2, timeout=20):
        assert "AllReduceBucket" in message
