"""`onnx-cbp finalize`: the file that it writes, and its options."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.models import INFERENCE, parse
from support.training import MODELS

SAMPLE = MODELS / "conv1d_signals"


@pytest.fixture
def trained(tmp_path):
    """A forward graph that needs no checkpoint."""
    path = tmp_path / "trained.onnx"
    onnx.save(parse(INFERENCE), path)
    return path


def test_writes_what_the_library_makes(run, trained, tmp_path):
    out = tmp_path / "out.onnx"
    result = run("finalize", trained, "-o", out)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "1 batch norm: 0 folded into the weights before them",
        "x -> y",
        f"wrote {out}",
    ]
    assert onnx.load(out) == onnx_cbp.finalize(trained)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "trained.onnx"]


@pytest.mark.parametrize("kind", ["training_model", "eval_model"])
def test_with_a_checkpoint(run, kind, tmp_path):
    out = tmp_path / "out.onnx"
    result = run("finalize", SAMPLE / f"{kind}.onnx", "--checkpoint", SAMPLE / "checkpoint", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert "7 batch norms: 7 folded" in result.stdout
    assert "x -> logits" in result.stdout


def test_what_has_no_running_statistics_is_named(run, tmp_path):
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, 4] x) => (float[N, 3, 4] y)
<float[1, 3, 1] scale = {1.5, 0.5, -2.0}, float[1, 3, 1] B = {0.5, 0.0, 1.0}, float epsilon = {0.001}> {
    mean = ReduceMean <axes = [0, 2]> (x) centred = Sub (x, mean)
    square = Mul (centred, centred) var = ReduceMean <axes = [0, 2]> (square)
    shifted = Add (var, epsilon) std = Sqrt (shifted) normal = Div (centred, std)
    scaled = Mul (normal, scale) y = Add (scaled, B)
}""")
    onnx.save(model, tmp_path / "of_the_batch.onnx")
    arguments = ("finalize", tmp_path / "of_the_batch.onnx", "-o", tmp_path / "out.onnx")
    _fails(run(*arguments), "node 'y' cannot be finalized", "--keep-batch-statistics")
    result = run(*arguments, "--keep-batch-statistics")
    assert result.exit_code == 0
    assert "1 without running statistics, which take those of the batch: y" in result.stdout


def test_output_chooses_what_is_kept(run, tmp_path):
    model = onnx.load(SAMPLE / "eval_model.onnx")
    name = next(node.output[0] for node in model.graph.node if node.op_type == "ReduceMean")
    out = tmp_path / "out.onnx"
    arguments = ("--checkpoint", SAMPLE / "checkpoint", "--output-name", "logits", "--output-name", name)
    assert run("finalize", SAMPLE / "eval_model.onnx", *arguments, "-o", out).exit_code == 0
    assert [value.name for value in onnx.load(out).graph.output] == ["logits", name]


def _fails(result, *said: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in said), result.stderr


def test_errors_are_one_line_and_leave_no_file(run, trained, tmp_path):
    out = tmp_path / "out.onnx"
    _fails(run("finalize", SAMPLE / "eval_model.onnx", "-o", out), "--checkpoint")
    _fails(run("finalize", trained, "--output-name", "nowhere", "-o", out), "'nowhere'", "'y'")
    _fails(run("finalize", tmp_path / "missing.onnx", "-o", out), "does not exist")
    _fails(run("finalize", trained, "-o", tmp_path / "no" / "out.onnx"), "does not exist")
    assert not out.exists()


def test_a_checkpoint_that_does_not_fit_is_named(run, trained, tmp_path):
    out = tmp_path / "out.onnx"
    eval_model = SAMPLE / "eval_model.onnx"
    _fails(run("finalize", eval_model, "--checkpoint", tmp_path / "none", "-o", out), "'", "does not exist")
    broken = tmp_path / "broken"
    broken.write_bytes(np.arange(64, dtype=np.uint8).tobytes())
    _fails(run("finalize", eval_model, "--checkpoint", broken, "-o", out), "cannot be read as a checkpoint")
    other = MODELS / "unet_digits" / "checkpoint"
    _fails(run("finalize", eval_model, "--checkpoint", other, "-o", out), "the checkpoint that belongs to it")
    _fails(run("finalize", trained, "--checkpoint", other, "-o", out), "the checkpoint that belongs to it")
    assert not out.exists()
