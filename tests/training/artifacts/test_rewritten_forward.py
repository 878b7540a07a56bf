"""Artifacts of forward graphs that have our ops already: ONNX Runtime's builder differentiates through them."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.training import Artifacts, compare_steps, generate_artifacts
from onnx_cbp.training.compare import gradient_differences
from support.made_up.finetuning import LAYERS, batch, gradients, loss, network, parameters
from support.models import op_types, without_running_statistics
from support.training import trainer

pytestmark = [pytest.mark.training, pytest.mark.native]


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # ONNX Runtime's gradient builder tells every step that it takes
    yield
    logging.disable(logging.NOTSET)


def _generate(model, folder, requires_grad, **arguments):
    folder.mkdir(exist_ok=True)
    generate_artifacts(
        model,
        requires_grad,
        loss="CrossEntropyLoss",
        optimizer="AdamW",
        artifact_directory=folder,
        loss_input_names=["logits"],
        **arguments,
    )
    artifacts = Artifacts.in_folder(folder)
    return Artifacts(artifacts.training_model, artifacts.checkpoint, artifacts.optimizer_model)


def _trained(values):
    return [name for name in values if "running" not in name]


def _all_training(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every batch norm in training form."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == "BatchNormalization" and len(node.output) == 1:
            node.output.extend(f"{node.name}_{name}" for name in ("mean", "var"))
            next(a for a in node.attribute if a.name == "training_mode").i = 1
    return copy


def _without_eval(monkeypatch):
    """The evaluation model of such a graph has a test of its own."""
    monkeypatch.setattr("onnx_cbp.training.artifacts._repair_eval_model", lambda path, prepared: None)


@pytest.mark.parametrize("updated", [True, False])
@pytest.mark.parametrize("activation", ["Tanh", "Relu"])
def test_it_takes_the_steps_of_the_artifacts_of_the_original(activation, updated, tmp_path, monkeypatch):
    _without_eval(monkeypatch)
    values = parameters(1)
    original = network(values, (), activation=activation, updated=updated)
    forward = onnx_cbp.rewrite(original)
    assert op_types(forward).count("BatchNormTrainUpdate") == 2
    want = _generate(original, tmp_path / "original", _trained(values))
    got = _generate(forward, tmp_path / "rewritten", _trained(values))
    kinds = [Counter(op_types(onnx.load(artifacts.training_model))) for artifacts in (want, got)]
    assert kinds[0] == kinds[1]
    differences = compare_steps(trainer(want, "auto"), trainer(got, "auto"), [batch(seed) for seed in range(4)])
    assert differences.loss <= 1e-7
    assert differences.largest_gradient <= 1e-6
    assert len(differences.statistics) == 4
    assert differences.largest_statistic <= 1e-7


@pytest.mark.parametrize("activation", ["Tanh", "Relu"])
def test_without_running_statistics(activation, tmp_path, monkeypatch):
    _without_eval(monkeypatch)
    values, data = parameters(2), batch(3)
    original = network(values, (), activation=activation)
    forward = onnx_cbp.rewrite(without_running_statistics(original))
    assert op_types(forward).count("BatchNormTrain") == 2
    want = trainer(_generate(original, tmp_path / "original", _trained(values)), "auto")
    got = trainer(_generate(forward, tmp_path / "rewritten", _trained(values)), "auto")
    assert got.forward_backward(data) == pytest.approx(want.forward_backward(data), abs=1e-6)
    assert max(gradient_differences(want.gradients(), got.gradients()).values()) <= 1e-5


@pytest.mark.parametrize("frozen", [("bn0",), ("bn1",), LAYERS])
@pytest.mark.parametrize("scales", [True, False])
def test_frozen_batch_norms(scales, frozen, tmp_path, monkeypatch):
    _without_eval(monkeypatch)
    values, data = parameters(4), batch(5)
    forward = onnx_cbp.rewrite(network(values, (), updated=True), freeze=list(frozen))
    names = [name for name in _trained(values) if scales or name.split(".")[0] not in frozen]
    artifacts = _generate(forward, tmp_path, names)
    assert op_types(onnx.load(artifacts.training_model)).count("ChannelBackpropStats") == scales * len(frozen)
    trained = trainer(artifacts, "auto")
    assert trained.forward_backward(data) == pytest.approx(loss(values, *data, frozen), abs=1e-6)
    want = gradients(values, *data, frozen)
    got = trained.gradients()
    assert max(gradient_differences({name: want[name] for name in got}, got).values()) <= 1e-5


@pytest.mark.parametrize("frozen", [(), ("bn0",)])
def test_a_batch_norm_of_the_data_itself(frozen, tmp_path, monkeypatch):
    """Nobody asks for the gradient of what it normalises."""
    _without_eval(monkeypatch)
    values, data = parameters(9), batch(10)
    del values["fc0.weight"]
    original = network(values, frozen, updated=True)
    gemm = original.graph.node.pop(0)
    original.graph.node[0].input[0] = gemm.input[0]
    forward = onnx_cbp.rewrite(_all_training(original), freeze=list(frozen))
    want = trainer(_generate(original, tmp_path / "original", _trained(values)), "auto")
    got = trainer(_generate(forward, tmp_path / "rewritten", _trained(values)), "auto")
    assert got.forward_backward(data) == pytest.approx(want.forward_backward(data), abs=1e-6)
    assert max(gradient_differences(want.gradients(), got.gradients()).values()) <= 1e-6


def test_layers_that_share_statistics_write_them_once(tmp_path, monkeypatch):
    _without_eval(monkeypatch)
    values = parameters(6)
    original = network(values, (), updated=True)
    for node in original.graph.node:
        for index, name in enumerate(node.input):
            if "running" in name:
                node.input[index] = name.replace("bn1", "bn0")
    want = _generate(original, tmp_path / "original", _trained(values))
    got = _generate(onnx_cbp.rewrite(original), tmp_path / "rewritten", _trained(values))
    differences = compare_steps(trainer(want, "auto"), trainer(got, "auto"), [batch(seed) for seed in range(2)])
    assert len(differences.statistics) == 2
    assert differences.largest_statistic <= 1e-7


def test_the_evaluation_model_is_pure_onnx(tmp_path):
    pytest.importorskip(
        "onnx_cbp.graph_passes.finalizing.to_inference", reason="the pass that makes inference form is not there"
    )
    values, (x, labels) = parameters(7), batch(8)
    forward = onnx_cbp.rewrite(network(values, (), updated=True), freeze="bn0")
    _generate(forward, tmp_path, _trained(values))
    import onnxruntime as ort

    model = onnx.load(tmp_path / "eval_model.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": x, "labels": labels, **values}
    fed = {value.name: feeds[value.name] for value in session.get_inputs()}
    np.testing.assert_allclose(session.run(None, fed)[0], loss(values, x, labels, LAYERS), atol=1e-6)


def test_what_has_no_gradient_is_refused(tmp_path):
    values = parameters(1)
    forward = onnx_cbp.rewrite(network(values, (), updated=True), one_pass=False)
    with pytest.raises(OnnxCbpError, match=r"^node 'bn0/ChannelStats' \(onnx_cbp.ChannelStats\) has no gradient"):
        _generate(forward, tmp_path, _trained(values))
    assert not list(tmp_path.iterdir())


def test_another_library_beside_ours_is_refused(tmp_path):
    values = parameters(1)
    forward = onnx_cbp.rewrite(network(values, (), updated=True))
    with pytest.raises(OnnxCbpError, match=r"^custom_op_library: the graph has ops of onnx-cbp \('bn0"):
        _generate(forward, tmp_path, _trained(values), custom_op_library="other.so")
    assert not list(tmp_path.iterdir())
