"""Frozen batch norms in arithmetic are folded after training as they are before it."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_cbp
import onnx_cbp.training
from onnx_cbp.training import Artifacts, generate_artifacts
from support.made_up.made_statistics import EPSILON, C, Graph
from support.models import op_types
from support.ops import session
from support.training import trainer

pytestmark = pytest.mark.training

LAYERS = 3


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.WARNING)  # ONNX Runtime's gradient builder tells every step that it takes
    yield
    logging.disable(logging.NOTSET)


def frozen(g: Graph, X: str, number: int, *, centred: bool, last: bool) -> str:
    """A batch norm with running statistics in arithmetic, of NCHW or of its NHWC transpose."""
    rng = np.random.default_rng(number)
    values = {
        "mean": rng.normal(size=C),
        "var": rng.uniform(0.5, 2, C),
        "weight": rng.uniform(0.5, 1.5, C),
        "bias": rng.normal(size=C),
    }
    vectors = [g.constant(value, name=f"bn{number}.{name}") for name, value in values.items()]
    if last:
        X = g.op("Transpose", X, perm=[0, 2, 3, 1])
    else:
        vectors = [g.op("Reshape", vector, g.integers([1, C, 1, 1])) for vector in vectors]
    mean, var, scale, B = vectors
    std = g.op("Sqrt", g.op("Add", var, g.constant(EPSILON)))
    if centred:
        y = g.op("Add", g.op("Mul", g.op("Div", g.op("Sub", X, mean), std), scale), B)
    else:
        slope = g.op("Div", scale, std)
        y = g.op("Add", g.op("Mul", X, slope), g.op("Sub", B, g.op("Mul", mean, slope)))
    return g.op("Transpose", y, perm=[0, 3, 1, 2]) if last else y


def network(*, centred: bool, last: bool) -> onnx.ModelProto:
    g, rng = Graph(), np.random.default_rng(0)
    h = "x"
    for number in range(LAYERS):
        h = g.op("Conv", h, g.constant(rng.normal(0, 0.5, (C, C, 1, 1)), name=f"conv{number}.weight"))
        h = g.op("Relu", frozen(g, h, number, centred=centred, last=last))
    flat = g.op("Flatten", g.op("GlobalAveragePool", h))
    return g.model(g.op("Gemm", flat, g.constant(rng.normal(size=(C, 3)), name="head.weight")))


@pytest.mark.parametrize("as_parameters", [False, True])
@pytest.mark.parametrize("trained", ["all", "weights"])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("centred", [False, True])
def test_they_are_folded_after_training(centred, last, trained, as_parameters, tmp_path):
    model = network(centred=centred, last=last)
    names = [tensor.name for tensor in model.graph.initializer]
    wanted = [name for name in names if name.endswith(("weight", "bias")) and (trained == "all" or "bn" not in name)]
    kept = [name for name in names if name.endswith(("mean", "var"))] if as_parameters else None
    options = {"loss": "CrossEntropyLoss", "optimizer": "AdamW", "artifact_directory": tmp_path}
    generate_artifacts(model, requires_grad=wanted, frozen_params=kept, train_batch_norms=(), **options)
    artifacts = Artifacts.in_folder(tmp_path)
    reports = []
    onnx_cbp.finalize(model, report=reports.append)
    finished = onnx_cbp.finalize(artifacts.training_model, checkpoint=artifacts.checkpoint, report=reports.append)
    assert [(each.batch_norms, each.folded) for each in reports] == [(LAYERS, LAYERS)] * 2
    assert not {"Add", "Sub", "Mul", "Div", "Sqrt", "BatchNormalization"} & set(op_types(finished))
    x = np.random.default_rng(1).normal(size=(5, C, 3, 2)).astype(np.float32)
    want, got = (session(each, None).run(None, {"x": x})[0] for each in (model, finished))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("as_parameters", [False, True])
def test_replicas_have_nothing_to_synchronize_in_them(as_parameters, tmp_path):
    model = network(centred=True, last=False)
    names = [tensor.name for tensor in model.graph.initializer]
    wanted = [name for name in names if name.endswith(("weight", "bias"))]
    kept = [name for name in names if name.endswith(("mean", "var"))] if as_parameters else None
    options = {"loss": "CrossEntropyLoss", "optimizer": "AdamW", "artifact_directory": tmp_path}
    more = {"rewrite_options": {"synchronize": True, "data_parallel": True}}
    generate_artifacts(model, requires_grad=wanted, frozen_params=kept, train_batch_norms=(), **options, **more)
    kinds = op_types(onnx.load(tmp_path / "training_model.onnx"))
    assert ("AllGather" in kinds, "AllReduceBucket" in kinds) == (False, True)


def test_what_was_trained_is_in_the_folded_weights(tmp_path):
    model = network(centred=True, last=False)
    names = [tensor.name for tensor in model.graph.initializer if tensor.name.endswith(("weight", "bias"))]
    options = {"loss": "CrossEntropyLoss", "optimizer": "AdamW", "artifact_directory": tmp_path}
    generate_artifacts(model, requires_grad=names, train_batch_norms=(), **options)
    artifacts = Artifacts.in_folder(tmp_path)
    trained = trainer(artifacts, "auto", learning_rate=1e-2)
    x = np.random.default_rng(1).normal(size=(5, C, 3, 2)).astype(np.float32)
    for _ in range(3):
        trained.step((x, np.arange(5) % 3))
    values = trained.values()
    for tensor in model.graph.initializer:  # the forward graph with what was trained
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    saved = tmp_path / "trained"
    api = onnx_cbp.training.load_api()
    api.CheckpointState.save_checkpoint(trained.state, str(saved))
    finished = onnx_cbp.finalize(artifacts.training_model, checkpoint=saved)
    assert not {"Add", "Sub", "Mul", "Div"} & set(op_types(finished))
    want, got = (session(each, None).run(None, {"x": x})[0] for each in (model, finished))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
