"""What our artifacts become when they are deployed: the evaluation model's results, from either graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.training.api import CheckpointState
from support.stepping import DROPOUT, NORMALISED, PERCEPTRON, Training, batches, network, normalised_weights, weights

NETWORKS = {
    "plain": (PERCEPTRON, weights),
    "batch norms": (NORMALISED, normalised_weights),
    "dropout": (DROPOUT, weights),
}
REWRITES = {
    "as it comes": {},
    "portable": {"portable": True},
    "in steps": {"one_pass": False},
    "no Relu folded": {"fold_relu": False},
    "replicas": {"synchronize": True, "data_parallel": True},
}


@pytest.mark.parametrize("rewrite", list(REWRITES))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_trained_network_is_deployed(name, rewrite, tmp_path):
    text, values = NETWORKS[name]
    if rewrite != "as it comes" and name != "batch norms":
        pytest.skip("the options are those of batch norms")
    trained = Training(network(text, values(0)), tmp_path / "net", rewrite_options=REWRITES[rewrite])
    trained.optimizer.set_learning_rate(0.05)
    for batch in batches(4, 1):
        trained.step(*batch)
    CheckpointState.save_checkpoint(trained.state, tmp_path / "trained")
    (x, labels), *_ = batches(1, 2)
    trained.module.eval()
    trained.module.export_model_for_inferencing(tmp_path / "exported.onnx", ["logits"])
    want = _logits(onnx.load(tmp_path / "exported.onnx"), x)
    log_p = want - np.log(np.exp(want).sum(1, keepdims=True))
    assert -log_p[np.arange(6), labels].mean() == pytest.approx(float(trained.module(x, labels)), rel=1e-5)
    for kind in ("training", "eval"):
        graph = tmp_path / "net" / f"{kind}_model.onnx"
        model = onnx_cbp.finalize(graph, checkpoint=tmp_path / "trained")
        in_memory = onnx_cbp.finalize(graph, checkpoint=trained.state)
        np.testing.assert_array_equal(_logits(in_memory, x), _logits(model, x))
        assert [v.name for v in model.graph.input] == ["x"]
        assert [v.name for v in model.graph.output] == ["logits"]
        assert {each.domain for each in model.opset_import} == {""}
        assert not [each for each in model.metadata_props if "onnx_cbp" in each.key]
        np.testing.assert_allclose(_logits(model, x), want, rtol=1e-5, atol=1e-6)


def _logits(model, x):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": x})[0]


@pytest.mark.parametrize("kind", ["training", "eval"])
def test_without_values_the_parameters_are_named(kind, tmp_path):
    Training(network(NORMALISED, normalised_weights(0)), tmp_path)
    with pytest.raises(OnnxCbpError, match="--checkpoint"):
        onnx_cbp.finalize(tmp_path / f"{kind}_model.onnx")


def test_a_nominal_checkpoint_has_no_values(tmp_path):
    Training(network(PERCEPTRON, weights(0)), tmp_path, nominal_checkpoint=True)
    path = tmp_path / "nominal_checkpoint"
    for checkpoint in (path, CheckpointState.load_checkpoint(path)):
        with pytest.raises(OnnxCbpError, match="is nominal"):
            onnx_cbp.finalize(tmp_path / "training_model.onnx", checkpoint=checkpoint)
