"""Networks trained for some steps and finalized, against ONNX Runtime's evaluation model."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp.training import Artifacts, load_api, load_artifacts
from support.made_up.networks import random_batches, random_network
from support.ops import session
from support.training import MODELS, generate, rewrite, trainer

pytestmark = pytest.mark.training

SAMPLES = sorted(path.parent.name for path in MODELS.glob("*/training_model.onnx"))
REWRITES: dict[str, dict] = {
    "as generated": {},
    "one op": {"one_pass": True},
    "Relu's result read": {"recompute_relu": False},
    "no Relu folded": {"fold_relu": False},
    "in steps": {"one_pass": False},
    "portable": {"portable": True},
    "replicas": {"synchronize": True, "data_parallel": True},
}


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # ONNX Runtime's gradient builder tells every step that it takes
    yield
    logging.disable(logging.NOTSET)


def _is_onnx(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    assert not model.functions


def _evaluated(model: onnx.ModelProto, values: dict, batch: tuple, name: str) -> np.ndarray:
    """A value of an evaluation model, with the parameters fed."""
    repaired = onnx_cbp.rewrite(model)
    if name not in {output.name for output in repaired.graph.output}:
        repaired.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    feeds = dict(zip((v.name for v in model.graph.input), batch, strict=False)) | values
    feeds = {v.name: feeds[v.name] for v in repaired.graph.input}
    return session(repaired, None).run([name], feeds)[0]


def _train(artifacts: Artifacts, batches: list, checkpoint) -> dict:
    """Train for some steps and save; the values at the end."""
    trained = trainer(artifacts, "auto", learning_rate=1e-2)
    for batch in batches:
        _step(trained, batch)
    load_api().CheckpointState.save_checkpoint(trained.state, str(checkpoint))
    return trained.values()


def _step(trained, batch) -> None:
    trained.module.train()
    trained.module.lazy_reset_grad()
    trained.module(*batch)
    trained.optimizer.step()


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_networks_after_training(seed, rank, tmp_path):
    forward = random_network(seed, rank)
    batches = random_batches(forward, 4, seed)
    artifacts = rewrite(generate(forward, tmp_path), tmp_path)
    checkpoint = tmp_path / "trained"
    values = _train(artifacts, batches, checkpoint)
    want = _evaluated(onnx.load(tmp_path / "eval_model.onnx"), values, batches[-1], "logits")
    sources = {
        "rewritten": artifacts.training_model,
        "as generated": tmp_path / "training_model.onnx",
        "evaluation": tmp_path / "eval_model.onnx",
    }
    for source in sources.values():
        final = onnx_cbp.finalize(source, checkpoint=checkpoint)
        _is_onnx(final)
        assert [v.name for v in final.graph.input] == ["x"]
        assert [v.name for v in final.graph.output] == ["logits"], "what feeds the loss"
        (got,) = session(final, None).run(None, {"x": batches[-1][0]})
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_models_in_every_form(name):
    artifacts = Artifacts.in_folder(MODELS / name)
    model, evaluation = onnx.load(artifacts.training_model), onnx.load(artifacts.eval_model)
    rng = np.random.default_rng(0)
    dims = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = rng.uniform(size=dims).astype(np.float32)
    state = load_api().CheckpointState.load_checkpoint(str(artifacts.checkpoint))
    values = {each: np.array(parameter.data) for each, parameter in state.parameters}
    shape = [d.dim_value or 3 for d in model.graph.input[1].type.tensor_type.shape.dim]
    want = _evaluated(evaluation, values, (x, np.zeros(shape, np.int64)), "logits")
    batch_norms = sum(node.op_type == "BatchNormalization" for node in evaluation.graph.node)
    sources = {key: onnx_cbp.rewrite(model, **options) if options else model for key, options in REWRITES.items()}
    for source in (*sources.values(), evaluation):
        done: list[onnx_cbp.Finalized] = []
        final = onnx_cbp.finalize(source, checkpoint=artifacts.checkpoint, report=done.append)
        _is_onnx(final)
        assert done[0] == onnx_cbp.Finalized(("x",), ("logits",), batch_norms, batch_norms)
        assert final.graph.input[0] == model.graph.input[0]
        (got,) = session(final, None).run(None, {"x": x})
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("loss", ["MSELoss", "BCEWithLogitsLoss", "L1Loss", "CrossEntropyLoss"])
def test_every_loss_of_the_generator_is_read(loss, tmp_path):
    kind = getattr(load_artifacts().LossType, loss)
    forward = random_network(5, 3)
    artifacts = generate(forward, tmp_path, loss=kind)
    for source in (artifacts.training_model, tmp_path / "eval_model.onnx"):
        final = onnx_cbp.finalize(source, checkpoint=artifacts.checkpoint)
        _is_onnx(final)
        assert [v.name for v in final.graph.output] == ["logits"]
        assert [v.name for v in final.graph.input] == ["x"]


def test_a_forward_graph_takes_the_values_of_a_checkpoint(tmp_path):
    forward = random_network(3, 4)
    batches = random_batches(forward, 3, 0)
    artifacts = generate(forward, tmp_path)
    _train(artifacts, batches, tmp_path / "trained")
    finals = [
        onnx_cbp.finalize(source, checkpoint=tmp_path / "trained") for source in (forward, artifacts.training_model)
    ]
    results = [session(final, None).run(None, {"x": batches[0][0]})[0] for final in finals]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5 * np.abs(results[1]).max())


def test_what_is_missing_in_the_checkpoint_is_named(tmp_path):
    forward = random_network(2, 4)
    artifacts = generate(forward, tmp_path)
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"\(.*\): give their values with --checkpoint"):
        onnx_cbp.finalize(artifacts.training_model)
