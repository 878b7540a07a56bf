"""Training artifacts whose batch norms get another momentum, or average all batches."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.training import Artifacts, Trainer, generate_artifacts, load_api
from support.models import parse

pytestmark = pytest.mark.training

#: As PyTorch writes momentum=None in eval mode: 1. The second module is called twice.
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2] x) => (float[N, 2] y)
<float[2] g = {1, 2}, float[2] b = {3, 4}, float[2] bn1_running_mean = {5, 6}, float[2] bn1_running_var = {7, 8},
 float[2] h = {2, 3}, float[2] c = {1, 0}, float[2] bn2_running_mean = {1, 2}, float[2] bn2_running_var = {3, 4}>
{
    a = BatchNormalization <momentum: float = 1.0> (x, g, b, bn1_running_mean, bn1_running_var)
    r = Relu (a)
    d = BatchNormalization <momentum: float = 1.0> (r, h, c, bn2_running_mean, bn2_running_var)
    y = BatchNormalization <momentum: float = 1.0> (d, h, c, bn2_running_mean, bn2_running_var)
}"""


def _model():
    model = parse(MODEL)
    for node, name in zip((n for n in model.graph.node if n.op_type != "Relu"), ("bn1", "bn2", "bn2_1"), strict=True):
        node.name = name
    return model


def _data(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(3, 2, (size, 2)).astype(np.float32) for size in (6, 9, 4)]


def _artifacts(folder, **options):
    generate_artifacts(
        _model(),
        requires_grad=["g", "b", "h", "c"],
        loss="MSELoss",
        optimizer="AdamW",
        artifact_directory=folder,
        train_batch_norms="*",
        rewrite_options=options,
        builder="onnxruntime",
    )
    return Artifacts.in_folder(folder)


def _trained(artifacts, steps=1):
    """The parameters behind forward passes over the data."""
    options = onnxruntime.SessionOptions()
    onnx_cbp.register(options)
    trainer = Trainer.load(artifacts, options)
    for x in _data() * steps:
        trainer.module.train()
        trainer.module(x, x)
    return trainer, {name: np.array(parameter.data) for name, parameter in trainer.state.parameters}


def _batch_statistics(x):
    """(mean, var) of bn1, and of both calls of bn2, in float64."""
    found = []
    for scale, bias, relu in (([1, 2], [3, 4], True), ([2, 3], [1, 0], False), ([2, 3], [1, 0], False)):
        x = np.asarray(x, np.float64)
        found.append((x.mean(0), x.var(0)))
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias
        x = np.maximum(x, 0) if relu else x
    return found


def _followed(momentum):
    """Running statistics behind the data, in float64."""
    running = {"bn1": [np.array([5.0, 6.0]), np.array([7.0, 8.0])], "bn2": [np.array([1.0, 2.0]), np.array([3.0, 4.0])]}
    seen = dict.fromkeys(running, 0)
    for x in _data():
        for module, new in zip(("bn1", "bn2", "bn2"), _batch_statistics(x), strict=True):
            seen[module] += 1
            kept = momentum.get(module, 1.0)
            kept = (seen[module] - 1) / seen[module] if kept == "cumulative" else kept
            running[module] = [old * kept + value * (1 - kept) for old, value in zip(running[module], new, strict=True)]
    return running, seen


CASES = {
    "cumulative": ("cumulative", {"bn1": "cumulative", "bn2": "cumulative"}),
    "a number": (0.25, {"bn1": 0.25, "bn2": 0.25}),
    "by name": ({"bn1": 0.5, "bn2*": "cumulative"}, {"bn1": 0.5, "bn2": "cumulative"}),
    "of one": ({"bn1": "cumulative"}, {"bn1": "cumulative"}),
}


@pytest.mark.parametrize("switches", [{}, {"one_pass": False}], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_running_statistics_follow_it(case, switches, tmp_path):
    momentum, kept = CASES[case]
    trainer, found = _trained(_artifacts(tmp_path, momentum=momentum, **switches))
    want, seen = _followed(kept)
    for module, values in want.items():
        for name, value in zip(("running_mean", "running_var"), values, strict=True):
            np.testing.assert_allclose(found[f"{module}_{name}"], value, rtol=2e-6, atol=1e-6)
        counter = f"{module}_num_batches_tracked"
        assert (counter in found) == (kept.get(module) == "cumulative")
        if counter in found:
            assert found[counter] == [seen[module]]
    path = tmp_path / "trained"
    load_api().CheckpointState.save_checkpoint(trainer.state, str(path))
    finalized = [onnx_cbp.finalize(tmp_path / f"{kind}_model.onnx", checkpoint=path) for kind in ("training", "eval")]
    x = _data(1)[0]
    for model in finalized:
        assert [value.name for value in model.graph.input] == ["x"]
        (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
        expected = x.astype(np.float64)
        for module, scale, bias in (("bn1", [1, 2], [3, 4]), ("bn2", [2, 3], [1, 0]), ("bn2", [2, 3], [1, 0])):
            mean, var = want[module]
            expected = (expected - mean) / np.sqrt(var + 1e-5) * scale + bias
            expected = np.maximum(expected, 0) if module == "bn1" else expected
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_evaluation_counts_nothing(tmp_path):
    artifacts = _artifacts(tmp_path, momentum="cumulative")
    model = onnx.load(tmp_path / "eval_model.onnx")
    assert not any("num_batches" in name for node in model.graph.node for name in (*node.input, *node.output))
    trainer, before = _trained(artifacts)
    trainer.module.eval()
    trainer.module(_data()[0], _data()[0])
    for name, parameter in trainer.state.parameters:
        np.testing.assert_array_equal(parameter.data, before[name])


def test_update_bn_leaves_how_many_batches_it_took(tmp_path):
    artifacts = _artifacts(tmp_path, momentum="cumulative")
    state = load_api().CheckpointState.load_checkpoint(str(artifacts.checkpoint))
    onnx_cbp.update_bn(artifacts.training_model, _data(), checkpoint=state, unbiased_running_var=False)
    found = {name: np.array(parameter.data) for name, parameter in state.parameters}
    assert [found[f"{module}_num_batches_tracked"].tolist() for module in ("bn1", "bn2")] == [[3.0], [6.0]]
    want, _ = _followed({"bn1": "cumulative", "bn2": "cumulative"})
    for module, values in want.items():
        for name, value in zip(("running_mean", "running_var"), values, strict=True):
            np.testing.assert_allclose(found[f"{module}_{name}"], value, rtol=1e-5, atol=1e-6)


def test_what_never_moves_is_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        artifacts = _artifacts(tmp_path)
    lines = [r.getMessage() for r in caplog.records if r.name == "onnx_cbp" and "momentum" in r.getMessage()]
    assert len(lines) == 1
    assert "momentum 1 of 'bn1', 'bn2', 'bn2_1'" in lines[0]
    assert "no step moves the running statistics" in lines[0]
    _, found = _trained(artifacts)
    np.testing.assert_array_equal(found["bn1_running_mean"], [5, 6])


def test_a_momentum_that_is_none_or_chooses_none_writes_nothing(tmp_path):
    for momentum, message in (("often", "momentum: 'often' is none"), ({"bn3": 0.5}, "'bn3' chooses no batch norm")):
        with pytest.raises(OnnxCbpError, match=message):
            _artifacts(tmp_path, momentum=momentum)
    assert not list(tmp_path.iterdir())


def test_an_average_by_outputs_of_the_graph_is_none_of_artifacts(tmp_path):
    model = _model()
    rewritten = onnx_cbp.graph_passes.TrainBatchNormsPass("bn1")(onnx_cbp.ir_models.to_ir(model)).model
    rewritten = onnx_cbp.ir_models.to_proto(rewritten, model)
    for name in rewritten.graph.node[0].output[1:]:
        rewritten.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]))
    rewritten = onnx_cbp.rewrite(rewritten, momentum={"bn1": "cumulative"})
    with pytest.raises(OnnxCbpError, match="averages all batches by outputs of the graph: make the artifacts from"):
        generate_artifacts(
            rewritten,
            requires_grad=["g"],
            loss="MSELoss",
            artifact_directory=tmp_path,
            builder="onnxruntime",
            loss_input_names=["y"],
        )
