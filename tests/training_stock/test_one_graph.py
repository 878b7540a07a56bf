"""A whole step as one graph, which another program may run; and a `Trainer` of our artifacts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_cbp import OnnxCbpError
from onnx_cbp.training import Artifacts, Trainer, compare_steps, step_model
from onnx_cbp.training.optimizers import SGD, AdamW
from support.programs.elsewhere import ELSEWHERE
from support.stepping import DROPOUT, NORMALISED, Training, batches, network, normalised_weights, weights


# A bias before a batch norm has no gradient but rounding, which an AdamW follows.
@pytest.mark.parametrize(
    ("text", "optimizer"),
    [(NORMALISED, SGD(momentum=0.9)), (DROPOUT, AdamW(weight_decay=0.1)), (DROPOUT, SGD())],
    ids=["batch norms", "AdamW", "SGD"],
)
def test_a_loop_of_a_few_lines_trains(text, optimizer, tmp_path):
    values = normalised_weights(0) if text == NORMALISED else weights(0)
    options = {"portable": True} if text == NORMALISED else {}
    trained = Training(network(text, values), tmp_path, optimizer=optimizer, rewrite_options=options)
    trained.optimizer.set_learning_rate(0.05)
    step = step_model(tmp_path)
    onnx.checker.check_model(step.model)
    session = ort.InferenceSession(step.model.SerializeToString(), providers=["CPUExecutionProvider"])
    state = dict(step.state)
    for batch in batches(4, 1):
        feeds = {**state, **dict(zip(step.data, batch, strict=True))}
        feeds |= {step.learning_rate: np.array([0.05], np.float32), step.lazy_reset_grad: np.array(True)}
        results = dict(zip([v.name for v in session.get_outputs()], session.run(None, feeds), strict=True))
        assert results[step.outputs[0]] == pytest.approx(trained.step(*batch), rel=1e-6)
        state |= {name: results[after] for name, after in step.following.items()}
    layouts = json.loads({e.key: e.value for e in step.model.metadata_props}["onnx_cbp.layouts"])
    for vector, tensors in layouts.items():
        for name, (start, shape) in tensors.items():
            got = state[vector][start : start + int(np.prod(shape))].reshape(shape)
            np.testing.assert_allclose(got, trained.values()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("text", "vectors"), [(NORMALISED, 2), (DROPOUT, 1)], ids=["batch norms", "dropout"])
def test_the_evaluation_graph_reads_the_vectors_of_the_step(text, vectors, tmp_path):
    values = normalised_weights(0) if text == NORMALISED else weights(0)
    trained = Training(network(text, values), tmp_path)
    step = step_model(tmp_path)
    onnx.checker.check_model(step.evaluation)
    session = ort.InferenceSession(step.evaluation.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    assert len(set(names) & set(step.state)) == vectors == len(names) - len(step.data)
    (batch,) = batches(1, 1)
    feeds = {**step.state, **dict(zip(step.data, batch, strict=True))}
    loss = session.run([step.outputs[0]], {name: feeds[name] for name in names})[0]
    trained.module.eval()
    assert loss == pytest.approx(trained.module(*batch), rel=1e-6)
    (tmp_path / "eval_model.onnx").unlink()
    assert step_model(tmp_path).evaluation is None


def test_without_an_optimizer_there_is_no_step(tmp_path):
    Training(network(DROPOUT, weights(0)), tmp_path, optimizer=None)
    with pytest.raises(OnnxCbpError, match=r"optimizer_model\.onnx' does not exist"):
        step_model(tmp_path)


def test_a_trainer_takes_our_artifacts(tmp_path):
    model = network(NORMALISED, normalised_weights(0))
    for name, options in {"one": {}, "other": {"one_pass": False}}.items():
        Training(model, tmp_path / name, rewrite_options=options)
    one, other = (Trainer.load(Artifacts.in_folder(tmp_path / name)) for name in ("one", "other"))
    differences = compare_steps(one, other, batches(3, 2))
    assert differences.loss < 1e-5
    assert differences.largest_gradient < 1e-4
    assert set(differences.statistics) == {"mean1", "var1", "mean2", "var2"}
    assert differences.largest_statistic < 1e-5
    with pytest.raises(OnnxCbpError, match=r"checkpoint' does not exist"):
        Trainer.load(Artifacts.in_folder(tmp_path / "nowhere"))


def test_a_checkpoint_is_read_without_onnxruntime_and_training_needs_no_training_build():
    code = """
import sys
from pathlib import Path
from onnx_cbp.training import checkpoints
assert "onnxruntime" not in sys.modules
import onnx_cbp.training.api, onnx_cbp.training.artifacts, onnx_cbp.training.losses, onnx_cbp.training.optimizers
assert not {"torch", "onnxruntime.training"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ELSEWHERE)


def test_the_page_shows_what_works(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    onnx.save(network(DROPOUT, weights(0)), tmp_path / "forward.onnx")
    monkeypatch.chdir(tmp_path)
    names = {"batches": batches(3, 1)}
    exec(code, names)
    session = ort.InferenceSession("deployed.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": batches(1, 1)[0][0]})[0].shape == (6, 3)
