"""generate_artifacts: gradients go through statistics that the graph makes, whatever they are of."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnx_cbp
from onnx_cbp.training import Artifacts, generate_artifacts
from support.gradients.in_double import widen
from support.made_up.made_statistics import (
    OF_THE_BATCH,
    OTHERS,
    C,
    Graph,
    instance_norm,
    layer_norm,
    pytorch,
    standardised_weight,
    tensorflow,
)
from support.models import op_types
from support.training import trainer

pytestmark = pytest.mark.training

CLASSES = 3
SAMPLES = 5
STEP = 1e-6
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # ONNX Runtime's gradient builder tells every step that it takes
    yield
    logging.disable(logging.NOTSET)


def network(layer, rank: int, opset: int) -> onnx.ModelProto:
    """A convolution, a layer, tanh, the mean over places, a classifier."""
    g, rng = Graph(rank, opset), np.random.default_rng(rank)
    kernel = (C, C, *[1] * (rank - 2))
    W = g.constant(rng.normal(0, 0.6, kernel), name="conv.weight")
    W = standardised_weight(g, W, kernel) if layer == "weight" else W
    y = g.op("Conv", "x", W)
    y = y if layer == "weight" else layer(g, y)
    h = g.op("Flatten", g.op("GlobalAveragePool", g.op("Tanh", y)))
    logits = g.op("Gemm", h, g.constant(rng.normal(size=(C, CLASSES)), name="head.weight"))
    return g.model(logits)


def batch_norm(statistics):
    return lambda g, X: g.batch_norm(X, *statistics(g, X))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    picked = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    return float((np.log(np.exp(logits).sum(1)) - picked).mean())


def true_loss_and_gradients(
    model: onnx.ModelProto, x: np.ndarray, labels: np.ndarray, names: list[str]
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and central differences of it, all of it in float64."""
    wide = widen(model)
    values = {t.name: numpy_helper.to_array(t) for t in wide.graph.initializer if t.name in names}
    for name, value in values.items():
        wide.graph.input.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, value.shape))
    evaluator = ReferenceEvaluator(wide)

    def loss(changed: dict[str, np.ndarray]) -> float:
        return cross_entropy(evaluator.run(None, {"x": x.astype(np.float64), **values, **changed})[0], labels)

    gradients = {}
    for name, value in values.items():
        gradients[name] = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            step = np.zeros(value.shape)
            step[place] = STEP
            gradients[name][place] = (loss({name: value + step}) - loss({name: value - step})) / (2 * STEP)
    return loss({}), gradients


BUILDERS = ("onnxruntime", "onnx_cbp")


def assert_true_gradients(model: onnx.ModelProto, folder, **arguments) -> Artifacts:
    rng = np.random.default_rng(7)
    names = [t.name for t in model.graph.initializer if t.name.endswith(("weight", "bias"))]
    x = rng.normal(0.5, 1.5, (SAMPLES, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])))
    x, labels = x.astype(np.float32), np.arange(SAMPLES) % CLASSES
    folder.mkdir()
    options = {"loss": "CrossEntropyLoss", "optimizer": "AdamW", "artifact_directory": folder, **arguments}
    generate_artifacts(model, requires_grad=names, **options)
    artifacts = Artifacts.in_folder(folder)
    trained = trainer(artifacts, "auto")
    got_loss = trained.forward_backward((x, labels))
    true_loss, want = true_loss_and_gradients(model, x, labels, names)
    assert got_loss == pytest.approx(true_loss, abs=1e-5)
    got = trained.gradients()
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        assert abs(got[name] - gradient).max() <= TOLERANCE * max(abs(gradient).max(), 0.1), name
    trained.module.eval()
    assert float(trained.module(x, labels)) == pytest.approx(got_loss, abs=1e-5)
    return artifacts


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("statistics", OF_THE_BATCH, ids=lambda function: function.__name__)
def test_of_the_batch_they_are_those_of_training(statistics, builder, tmp_path):
    for rank, opset in ((4, 17), (3, 14)):
        model = network(batch_norm(statistics), rank, opset)
        artifacts = assert_true_gradients(model, tmp_path / f"{rank}", builder=builder)
        kinds = op_types(onnx.load(artifacts.training_model))
        assert {"BatchNormTrain", "BatchNormGrad"} <= set(kinds)
    # Asked to train, it does what it did.
    assert_true_gradients(model, tmp_path / "trains", train_batch_norms="*", builder=builder)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("statistics", OTHERS, ids=lambda function: function.__name__)
def test_of_something_else_they_go_through_what_makes_them(statistics, builder, tmp_path):
    for rank, opset in ((4, 17), (3, 13)):
        model = network(batch_norm(statistics), rank, opset)
        artifacts = assert_true_gradients(model, tmp_path / f"{rank}", builder=builder)
        assert builder == "onnx_cbp" or not any(
            "BatchNorm" in kind for kind in op_types(onnx.load(artifacts.training_model))
        )


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("layer", [layer_norm, instance_norm, "weight"])
def test_of_a_part_of_the_batch_they_are_those_of_that(layer, builder, tmp_path):
    for rank, opset in ((4, 17), (3, 13)):
        assert_true_gradients(network(layer, rank, opset), tmp_path / f"{rank}", builder=builder)


@pytest.mark.parametrize("builder", BUILDERS)
def test_of_a_parameter_that_trains_they_go_there(builder, tmp_path):
    def layer(g, X):
        mean = g.op("Mul", g.constant(np.linspace(-1, 1, C), name="mean.weight"), g.constant(np.full(C, 0.5)))
        var = g.op("Exp", g.constant(np.linspace(-1, 1, C), name="var.weight"))
        return g.batch_norm(X, mean, var)

    assert_true_gradients(network(layer, 4, 17), tmp_path / "artifacts", builder=builder)


@pytest.mark.parametrize("builder", BUILDERS)
def test_artifacts_of_replicas_are_synchronized(builder, tmp_path):
    model = network(batch_norm(tensorflow), 4, 17)
    names = [t.name for t in model.graph.initializer if t.name.endswith(("weight", "bias"))]
    options = {"synchronize": True, "data_parallel": True}
    where = {"artifact_directory": tmp_path, "builder": builder}
    generate_artifacts(model, requires_grad=names, loss="CrossEntropyLoss", rewrite_options=options, **where)
    kinds = op_types(onnx.load(tmp_path / "training_model.onnx"))
    assert (kinds.count("AllGather"), kinds.count("AllReduce")) == (1, 1)


def test_rewriting_a_training_graph_of_onnx_runtimes_own_does_not_keep_made_statistics(tmp_path):
    """ONNX Runtime's builder makes the op one that trains, and made statistics its running ones."""
    from onnx_cbp.training import load_artifacts

    model = network(batch_norm(pytorch), 4, 17)
    artifacts = load_artifacts()
    names = [t.name for t in model.graph.initializer if t.name.endswith(("weight", "bias"))]
    loss = artifacts.LossType.CrossEntropyLoss
    artifacts.generate_artifacts(model, requires_grad=names, loss=loss, artifact_directory=str(tmp_path))
    training = onnx.load(tmp_path / "training_model.onnx")
    (forward,) = (found for found in onnx_cbp.inspect(training) if found.form == "BatchNormInternal")
    assert "it has no running statistics" in forward.explanation
    rewritten = onnx_cbp.rewrite(training)
    assert "BatchNormTrain" in op_types(rewritten)
    assert helper.printable_graph(rewritten.graph).count("ReduceMean") == 0
