"""Every sample model, as it is in models/: found, rewritten, and trained step by step beside the original.

Inputs and labels are made up; their shapes and the number of classes are read from each training graph.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp.training import Artifacts, Trainer
from onnx_cbp.training.compare import Batch, gradient_differences
from support.gradients.switches import Kinks, Ties, batches, switches, with_outputs
from support.training import MODELS, trainer

pytestmark = pytest.mark.training

NAMES = sorted(path.parent.name for path in MODELS.glob("*/training_model.onnx"))
#: Python ops are slow, so they get the model with the fewest parameters.
SMALLEST = min(NAMES, key=lambda name: (MODELS / name / "checkpoint").stat().st_size)

STEPS = 20
LOSS = 1e-6
GRADIENTS = 5e-5
STATISTICS = 1e-6
#: What passes in one graph only is this near to the kink or the tie, relative to its place where that is above 1.
FLIP_SIZE = 5e-6
FLIPS = 4
MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)  # ONNX Runtime's gradient builder tells every step that it takes
    yield
    logging.disable(logging.NOTSET)


def rewritten(artifacts: Artifacts, folder: Path) -> Artifacts:
    """The artifacts with every batch norm of the training graph replaced."""
    model = onnx_cbp.rewrite(artifacts.training_model)
    assert not {"BatchNormInternal", "BatchNormalizationGrad"} & {node.op_type for node in model.graph.node}
    # ONNX Runtime's own graph is not valid ONNX where it has a MaxPoolGrad, which it puts into ONNX's domain.
    assert _complaint(model) == _complaint(onnx.load(artifacts.training_model))
    path = folder / "rewritten.onnx"
    onnx.save(model, path)
    return dataclasses.replace(artifacts, training_model=path)


def _complaint(model: onnx.ModelProto) -> str | None:
    """What onnx has against a model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        return str(error)
    return None


def run(trained: Trainer, outputs: list[str], batch: Batch) -> dict[str, np.ndarray]:
    """One forward and backward run; the outputs by name."""
    trained.module.train()
    trained.module.lazy_reset_grad()
    return dict(zip(outputs, trained.module(*batch), strict=True))


def assert_same_steps(artifacts: Artifacts, backend: str, folder: Path) -> None:
    """Train the original; let the rewritten graph take each step from the original's state."""
    watched = switches(onnx.load(artifacts.training_model).graph)
    original = with_outputs(artifacts, {name for switch in watched for name in switch.outputs}, folder)
    # The training API returns what a graph returns, less the gradients that it keeps.
    graph = onnx.load(original.training_model).graph
    outputs = [value.name for value in graph.output if not value.name.endswith(".accumulation.out")]
    theirs, ours = trainer(original), trainer(rewritten(original, folder), backend)
    losses, gradients, flips = [], [], []
    for batch in batches(artifacts, STEPS, seed=0):
        ours.set_values(theirs.values())
        got, want = run(ours, outputs, batch), run(theirs, outputs, batch)
        losses.append(abs(float(got[outputs[0]]) / float(want[outputs[0]]) - 1))
        gradients.append(max(gradient_differences(theirs.gradients(), ours.gradients()).values()))
        flips.append(np.concatenate([switch.flips(got, want) for switch in watched]))
        theirs.optimizer.step()
    judged = [difference for difference, flipped in zip(gradients, flips, strict=True) if not flipped.size]
    sizes = np.concatenate(flips)
    print(
        f"loss {max(losses):.1e}, gradients {max(judged, default=np.inf):.1e} in {len(judged)} of {STEPS} steps; "
        f"{sizes.size} flips in the others, gradients {max(gradients):.1e}, at most {sizes.max(initial=0):.1e} away"
    )
    assert max(losses) <= LOSS
    assert sizes.max(initial=0) <= FLIP_SIZE
    assert max(flipped.size for flipped in flips) <= FLIPS
    assert len(judged) >= STEPS / 2
    assert max(judged) <= GRADIENTS


@pytest.mark.parametrize("name", NAMES)
def test_native_ops_take_the_same_steps(name, tmp_path):
    assert_same_steps(Artifacts.in_folder(MODELS / name), "native", tmp_path)


def test_python_ops_take_the_same_steps(tmp_path):
    assert_same_steps(Artifacts.in_folder(MODELS / SMALLEST), "python", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_running_statistics_after_steps_at_learning_rate_zero(name, tmp_path):
    artifacts = Artifacts.in_folder(MODELS / name)
    original = trainer(artifacts, learning_rate=0.0)
    ours = trainer(rewritten(artifacts, tmp_path), "native", learning_rate=0.0)
    start = original.values()
    for batch in batches(artifacts, 4, seed=1):
        original.step(batch)
        ours.step(batch)
    want, got = original.values(), ours.values()
    statistics = [value for value in want if value.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 2 * _batch_norms(artifacts)
    for value in want:
        if value in statistics:
            assert np.abs(want[value] - start[value]).max() > 1e-3, "the steps moved it"
            atol = STATISTICS * np.abs(want[value]).max()
            np.testing.assert_allclose(got[value], want[value], rtol=STATISTICS, atol=atol, err_msg=value)
        else:
            np.testing.assert_array_equal(got[value], start[value], err_msg=value)
    differences = gradient_differences({k: want[k] for k in statistics}, {k: got[k] for k in statistics}, 0.0)
    print(f"statistics {max(differences.values()):.1e}")


def _batch_norms(artifacts: Artifacts) -> int:
    """How many batch norms the network has, counted where nothing was differentiated."""
    return sum(node.op_type == "BatchNormalization" for node in onnx.load(artifacts.eval_model).graph.node)


@pytest.mark.parametrize("name", NAMES)
def test_inspect_lists_every_batch_norm_forward_and_backward(name):
    artifacts = Artifacts.in_folder(MODELS / name)
    findings = onnx_cbp.inspect(artifacts.training_model)
    batch_norms = _batch_norms(artifacts)
    assert batch_norms >= 5
    assert Counter(finding.form for finding in findings) == {
        "BatchNormInternal": batch_norms,
        "BatchNormalizationGrad": batch_norms,
    }
    assert all(finding.rewritten for finding in findings)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_start_where_nothing_has_run_and_the_evaluation_graph_runs(name):
    artifacts = Artifacts.in_folder(MODELS / name)
    evaluated = trainer(artifacts)
    for value, array in evaluated.values().items():
        if value.endswith("running_mean"):
            assert not array.any()
        elif value.endswith("running_var"):
            assert (array == 1).all()
    (batch,) = batches(artifacts, 1, seed=2)
    evaluated.module.eval()
    loss, logits = evaluated.module(*batch)
    assert np.isfinite(loss)
    labels = batch[-1]
    assert (logits.shape[0], *logits.shape[2:]) == labels.shape


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_small_and_has_an_architecture(name):
    assert sum(file.stat().st_size for file in (MODELS / name).iterdir()) < MEGABYTE
    assert (MODELS / "architectures" / f"{name}.py").is_file()


def test_flips_are_found_at_both_kinks_of_a_clip_and_at_a_relu():
    below, above = np.nextafter(np.float32([0.0, 6.0]), np.float32([-1.0, 7.0]))
    want = {"x": np.array([0.0, 6.0, 1.0, -1.0, 7.0], np.float32)}
    clip = Kinks("x", 0.0, 6.0, open=False)
    assert not clip.flips(want, want).size
    near = clip.flips({"x": np.array([below, above, 1.0, -1.0, 7.0], np.float32)}, want)
    assert near.size == 2
    assert near.max() < 1e-7
    # One that is far from both is an error, however small the step across would be at the other.
    assert clip.flips({"x": np.array([0.0, 6.0, -1.0, -1.0, 7.0], np.float32)}, want).max() == 1.0
    relu = Kinks("x", 0.0, np.inf, open=True)
    assert relu.flips({"x": np.array([1e-7, 8.0, 1.0, -1.0, 7.0], np.float32)}, want).tolist() == pytest.approx([1e-7])


def test_flips_are_found_at_the_ties_of_a_maxpool():
    want = {"x": np.array([[[1.0, 1.0, 2.0, 3.0]]], np.float32), "i": np.array([[[0, 3]]])}
    assert not Ties("x", "i").flips(want, want).size
    tied = Ties("x", "i").flips({**want, "i": np.array([[[1, 3]]])}, want)
    assert tied.tolist() == [0.0]
    wrong = Ties("x", "i").flips({**want, "i": np.array([[[0, 2]]])}, want)
    assert wrong.tolist() == [1.0]
