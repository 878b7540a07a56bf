"""`onnx-cbp update-bn`: where its batches come from, and its options."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_cbp.training import load_api
from support.made_up.networks import random_batches, random_network
from support.models import parse
from support.training import generate

MODEL = """
<ir_version: 8, opset_import: ["" : 15]>
agraph (float[N, 2] x) => (float[N, 2] y)
<float[2] one = {1.0, 1.0}, float[2] zero = {0.0, 0.0}, float[2] mean = {0.0, 0.0}, float[2] var = {1.0, 1.0}>
{ y = BatchNormalization (x, one, zero, mean, var) }
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(parse(MODEL), path)
    return path


def _statistics(path):
    values = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    return values["mean"], values["var"]


def test_a_file_is_cut_into_batches(model, tmp_path, run):
    x = np.random.default_rng(0).normal(3.0, 2.0, (10, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    result = run("update-bn", model, "--data", tmp_path / "data.npz", "-o", model, "--batch-size", 4)
    assert result.exit_code == 0, result.output
    parts = [x[:4], x[4:8], x[8:]]
    mean, var = _statistics(model)
    np.testing.assert_allclose(mean, np.mean([p.mean(axis=0) for p in parts], axis=0), rtol=1e-5)
    np.testing.assert_allclose(var, np.mean([p.var(axis=0, ddof=1) for p in parts], axis=0), rtol=1e-5)


def test_a_folder_of_batches_and_the_options(model, tmp_path, run):
    x = np.random.default_rng(0).normal(3.0, 2.0, (10, 2)).astype(np.float32)
    (tmp_path / "data").mkdir()
    for number, part in enumerate((x[:3], x[3:])):
        np.savez(tmp_path / "data" / f"{number}.npz", x=part)
    out = tmp_path / "out.onnx"
    for ddof, options in ((1, []), (1, ["--unbiased-running-var"]), (0, ["--biased-running-var"])):
        run("update-bn", model, "--data", tmp_path / "data", "-o", out, "--exact", *options)
        mean, var = _statistics(out)
        np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(var, x.var(axis=0, ddof=ddof), rtol=1e-5)
    run("update-bn", model, "--data", tmp_path / "data" / "0.npz", "-o", out, "--momentum", 0.5)
    np.testing.assert_allclose(_statistics(out)[0], 0.5 * x[:3].mean(axis=0), rtol=1e-5)


def test_inputs_of_different_lengths_are_not_cut(tmp_path, run):
    model = tmp_path / "model.onnx"
    onnx.save(parse(MODEL.replace("(float[N, 2] x)", "(float[N, 2] x, float[M] z)")), model)
    np.savez(tmp_path / "uneven.npz", x=np.zeros((2, 2), np.float32), z=np.zeros(3))
    result = run("update-bn", model, "--data", tmp_path / "uneven.npz", "-o", model, "--batch-size", 2)
    assert result.exit_code == 2
    assert "arrays of [2, 3] samples" in result.stderr


def test_other_arrays_of_a_file_are_not_read(model, tmp_path, run):
    x = np.random.default_rng(0).normal(3.0, 2.0, (6, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=np.arange(5), names=np.array(["a", "b"]))
    result = run("update-bn", model, "--data", tmp_path / "data.npz", "-o", model, "--batch-size", 3)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(_statistics(model)[0], x.mean(axis=0), rtol=1e-5)


def test_bad_data_is_one_line_and_nothing_is_written(model, tmp_path, run):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("nonsense")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", z=np.zeros((2, 2), np.float32))
    np.savez(tmp_path / "double.npz", x=np.zeros((2, 2)))
    for name, message in {
        "nowhere.npz": "does not exist",
        "empty": "is a folder without .npz files",
        "text.npz": "is no .npz file of arrays",
        "one.npy": "is one array",
        "other.npz": "has 'z', and the model's inputs are 'x'",
        "double.npz": "batch 0: 'x' has type float64, and float32 is fed to the model: give it as float32",
    }.items():
        result = run("update-bn", model, "--data", tmp_path / name, "-o", tmp_path / "out.onnx", "--batch-size", 2)
        assert result.exit_code == 2, name
        assert message in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
        assert not (tmp_path / "out.onnx").exists()


def test_a_checkpoint_that_is_none_is_named(model, tmp_path, run):
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 2), np.float32))
    (tmp_path / "text").write_text("nonsense, and enough of it")
    result = run(
        "update-bn", model, "--data", tmp_path / "data.npz", "--checkpoint", tmp_path / "text", "-o", tmp_path / "new"
    )
    assert result.stderr.startswith(f"onnx-cbp: '{tmp_path / 'text'}' cannot be read as a checkpoint")
    assert result.stderr.count("\n") == 1


@pytest.mark.training
def test_a_checkpoint_is_written_beside_the_one_that_is_read(tmp_path, run):
    network = random_network(3, 4)
    artifacts = generate(network, tmp_path)
    (x, labels), *_ = random_batches(network, 1, 0)
    np.savez(tmp_path / "data.npz", x=x, labels=labels)
    before = artifacts.checkpoint.read_bytes()
    result = run(
        "update-bn", artifacts.training_model, "--data", tmp_path / "data.npz", "--checkpoint", artifacts.checkpoint,
        "-o", tmp_path / "new",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert artifacts.checkpoint.read_bytes() == before
    states = [load_api().CheckpointState.load_checkpoint(str(p)) for p in (artifacts.checkpoint, tmp_path / "new")]
    old, new = ({name: np.array(p.data) for name, p in state.parameters} for state in states)
    moved = {name for name in old if not np.array_equal(old[name], new[name])}
    assert moved == {name for name in old if "running" in name}
