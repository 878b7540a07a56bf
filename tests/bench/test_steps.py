"""That training steps are measured, compared and told about. No test here looks at which of the two is faster."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnx_cbp
from onnx_cbp.bench import StepBench, StepSettings
from onnx_cbp.bench.training_steps import step_models
from onnx_cbp.bench.training_steps.step_models import prepare
from onnx_cbp.bench.training_steps.step_worker import _by_node
from onnx_cbp.cli import cli
from onnx_cbp.custom_ops.library import get_library_path
from onnx_cbp.twin import in_standard_ops
from support.models import FORWARD, TRAINING, parse
from support.training import MODELS

SIGNALS = MODELS / "conv1d_signals"
#: Of every batch norm in it: itself and its gradient; and the one ReLU, with its gradient, that nothing else reads.
FOLDED = {"BatchNormInternal": 7, "BatchNormalizationGrad": 7, "Relu": 1, "ReluGrad": 1}


def run(*arguments):
    return CliRunner().invoke(cli, ["bench", "--quick", "--rounds", "2", "--threads", "1", *map(str, arguments)])


def _said(result):
    """What is on standard error, but for lines of progress."""
    return [line for line in result.stderr.splitlines() if not line.startswith("measuring ")]


@pytest.fixture
def forward(tmp_path):
    """A graph that any ONNX Runtime has the ops of; its batch norm is all there is to it."""
    path = tmp_path / "forward.onnx"
    onnx.save(parse(FORWARD), path)
    return path


@pytest.mark.native
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_graph_by_itself(threads, forward, tmp_path):
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    plot = ("--plot", picture) if find_spec("matplotlib") else ()
    result = run(forward, "--threads", threads, "--json", out, *plot)
    assert (result.exit_code, _said(result)) == (0, []), result.output
    assert not plot or picture.read_bytes().startswith(b"\x89PNG")
    _check_table(result.stdout.splitlines(), forward, threads)
    document = json.loads(out.read_text())
    assert set(document) == {"machine", "versions", "settings", "agrees", "results"}
    assert document["agrees"] is True
    assert document["settings"]["models"] == [str(forward)]
    assert document["settings"]["rounds"] == 2
    assert [r["threads"] for r in document["results"]] == [1, 2][:threads]
    for row in document["results"]:
        assert (row["model"], row["step"], row["batch"]) == (str(forward), "one run of the graph", 4)
        original, rewritten = row["original"], row["rewritten"]
        assert len(original["rounds_s"]) == len(rewritten["rounds_s"]) == 2
        assert row["ratio"] == pytest.approx(original["median_s"] / rewritten["median_s"])
        by_round = zip(original["rounds_s"], rewritten["rounds_s"], strict=True)
        assert row["ratio_rounds"] == pytest.approx([before / after for before, after in by_round])
        assert row["saved"] == pytest.approx(1 - rewritten["median_s"] / original["median_s"])
        for variant in (original, rewritten):
            batch_norm = variant["batch_norm"]
            assert batch_norm["share"] == pytest.approx(batch_norm["kernels_s"] / batch_norm["step_s"])
            assert 0 < batch_norm["share"] < 1
            for memory in (variant["memory"], variant["memory_without_arena"]):
                assert memory["peak_bytes"] >= memory["before_bytes"] > 2**20
                assert memory["steps_bytes"] == memory["peak_bytes"] - memory["before_bytes"]
        assert original["batch_norm"]["nodes"] == 1


def _check_table(lines, forward, n):
    """For `n` numbers of threads, the times, the parts of the batch norms, and memory."""
    assert "time of a step (one run of the graph), batch 4" in lines
    assert max(map(len, lines)) <= 100
    for heads in (
        ("original ms", "rewritten ms", "ratio", "spread"),
        ("BN ms", "BN share", "step faster by"),
        ("original MB", "rewritten MB", "original, no arena", "rewritten, no arena"),
    ):
        assert any(all(head in line for head in heads) for line in lines), heads
    end = forward.name[-4:]  # of a path that is cut in the middle
    rows = [line.split() for line in lines if line.split() and line.split()[0].endswith(end)]
    assert [len(row) for row in rows] == [8] * n + [len(rows[n])] * n + [6] * n  # the spread is "1.2 to 1.4"
    assert all(row[column].endswith("%") for row in rows[n : 2 * n] for column in (-1, -2))


@pytest.mark.native
def test_memory_is_what_the_tensors_take_and_the_share_what_the_batch_norm_takes(forward):
    # All three symbols become the batch: X and Y are [96, 3, 96, 96]. X is there before the steps, Y is made by them.
    settings = StepSettings((str(forward),), batch=96, threads=(1,), rounds=1)
    (row,) = StepBench(settings, get_library_path()).run(str(forward))
    size = 96 * 3 * 96 * 96 * 4
    for variant in (row.original, row.rewritten):
        assert 0.95 * size < variant.live.of_steps < 1.2 * size
        assert 0.95 * size < variant.memory.of_steps < 4 * size  # the arena grows by powers of two
        assert variant.live.before > size
        assert variant.batch_norm.share > 0.5  # it is the only node


@pytest.mark.native
@pytest.mark.training
def test_training_artifacts(tmp_path):
    out = tmp_path / "out.json"
    result = run(SIGNALS, "--json", out)
    assert (result.exit_code, _said(result)) == (0, []), result.output
    (row,) = json.loads(out.read_text())["results"]
    assert row["step"] == "forward, backward and optimizer"
    assert row["difference"] < 1e-5
    original, rewritten = row["original"]["batch_norm"], row["rewritten"]["batch_norm"]
    assert original["nodes"] == sum(FOLDED.values())
    # Forward, backward, and for each forward op the two nodes that write its running statistics.
    assert rewritten["nodes"] == 7 + 7 + 2 * 7
    assert 0.01 < original["share"] < 0.9


@pytest.mark.native
@pytest.mark.training
def test_the_batch_norms_are_what_the_rewrite_replaces(tmp_path):
    model = prepare(str(SIGNALS), tmp_path, get_library_path(), batch=5, seed=3)
    assert Counter(op_type for _, op_type in model.original.batch_norms) == FOLDED
    assert {op_type for _, op_type in model.rewritten.batch_norms} == {
        "BatchNormTrainUpdate",
        "BatchNormGrad",
        "BatchNormReluTrainUpdate",
        "BatchNormRecomputeReluGrad",
        "InPlaceAccumulatorV2",
    }
    # What a training loop gives, and neither parameters nor gradients.
    signals, labels = (np.load(path) for path in model.inputs.values())
    assert (signals.shape, signals.dtype) == ((5, 3, 37), np.float32)
    assert (labels.shape, labels.dtype) == ((5,), np.int64)
    assert 0 <= labels.min() <= labels.max() < 6


@pytest.mark.native
@pytest.mark.training
@pytest.mark.thorough
def test_artifacts_without_an_optimizer_and_a_training_graph_by_itself(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for name in ("training_model.onnx", "checkpoint"):
        shutil.copy(SIGNALS / name, folder)
    out = tmp_path / "out.json"
    result = run(folder, folder / "training_model.onnx", "--json", out)
    assert (result.exit_code, _said(result)) == (0, []), result.output
    rows = json.loads(out.read_text())["results"]
    assert [row["step"] for row in rows] == ["forward and backward", "one run of the graph"]
    assert {row["original"]["batch_norm"]["nodes"] for row in rows} == {sum(FOLDED.values())}


@pytest.mark.native
@pytest.mark.training
@pytest.mark.parametrize(
    "name",
    [
        *("resnet_digits", "conv1d_signals"),
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("mobilenet_digits", "unet_digits")),
    ],
)
def test_a_rewritten_step_takes_no_more_memory(name, tmp_path):
    # Two vectors for each batch norm live longer (the updated running statistics), and the kernel counts resident
    # pages by thread, in batches: that is below a percent and a quarter megabyte.
    bench = StepBench(StepSettings((name,)), get_library_path())
    model = prepare(str(MODELS / name), tmp_path, get_library_path(), batch=256, seed=0)
    original, rewritten = (
        bench.memory(model, graph, threads=1, arena=False).of_steps for graph in (model.original, model.rewritten)
    )
    assert original > 2**22
    assert rewritten <= 1.01 * original + 2**18


@pytest.mark.native
@pytest.mark.thorough
def test_what_has_our_ops_from_the_start_is_held_against_its_twin(forward, tmp_path):
    rewritten, twin = tmp_path / "rewritten.onnx", tmp_path / "twin.onnx"
    onnx.save(onnx_cbp.rewrite(forward), rewritten)
    onnx.save(in_standard_ops(rewritten), twin)
    assert all(node.domain == "" for node in onnx.load(twin).graph.node)
    out = tmp_path / "out.json"
    result = run(rewritten, "--json", out)
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["agrees"] is True


@pytest.mark.native
def test_a_step_that_differs_is_not_measured(forward, tmp_path, monkeypatch):
    monkeypatch.setitem(step_models._TOLERANCES, 4, -1.0)
    out = tmp_path / "out.json"
    result = run(forward, "--json", out)
    assert result.exit_code == 1
    assert "differs" in result.stdout
    assert "was not measured: the first outputs of original and rewritten differ by" in result.stdout
    document = json.loads(out.read_text())
    assert document["agrees"] is False
    (row,) = document["results"]
    assert row["ratio"] is None
    assert row["original"]["rounds_s"] == []
    assert row["missing"]


def test_nodes_get_names_of_their_own(tmp_path):
    path = tmp_path / "training.onnx"
    model = parse(TRAINING)
    model.graph.node.add(op_type="Identity", input=["y"], output=["z"], name="twice")
    model.graph.node.add(op_type="Identity", input=["y"], output=["w"], name="twice")
    onnx.save(model, path)
    named = step_models._named_nodes(onnx.load(path))
    names = [node.name for node in named.graph.node]
    assert names == ["BatchNormInternal_0", "BatchNormalizationGrad_0", "twice", "twice_0"]


@pytest.mark.native
@pytest.mark.thorough
def test_a_batch_norm_in_a_subgraph(tmp_path):
    path, out = tmp_path / "subgraph.onnx", tmp_path / "out.json"
    onnx.save(
        parse("""
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (float[N, 3, L] x, float limit, float[3] gamma, float[3] beta, float[3] mean, float[3] var)
                => (float[N, 3, L] z) <float far = {100}>
            {
                small = Less (limit, far)
                z = If (small) <
                    then_branch = normal () => (y) {
                        y, new_mean, new_var = BatchNormalization <training_mode: int = 1> (x, gamma, beta, mean, var)
                    },
                    else_branch = plain () => (same) { same = Identity (x) }
                >
            }
        """),
        path,
    )
    result = run(path, "--json", out)
    assert (result.exit_code, _said(result)) == (0, []), result.output
    (row,) = json.loads(out.read_text())["results"]
    assert row["original"]["batch_norm"]["nodes"] == 1
    assert row["original"]["batch_norm"]["share"] > 0


@pytest.mark.native
@pytest.mark.thorough
def test_a_share_that_the_profile_does_not_show_whole_is_said_to_be_at_least_that(tmp_path):
    path = tmp_path / "folded.onnx"
    onnx.save(
        parse("""
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (float[N, 3, L] x, float[3] gamma, float[3] beta, float[3] mean, float[3] var) => (float[N, 3, L] z)
            {
                always = Constant <value: tensor = bool {1}> ()
                z = If (always) <
                    then_branch = normal () => (y) {
                        y, new_mean, new_var = BatchNormalization <training_mode: int = 1> (x, gamma, beta, mean, var)
                    },
                    else_branch = plain () => (same) { same = Identity (x) }
                >
            }
        """),
        path,
    )
    # ONNX Runtime puts the branch in the place of the If, and gives its nodes other names.
    result = run(path)
    assert result.exit_code == 0, result.output
    assert "at least 0.0%" in result.stdout


def test_the_time_of_a_subgraph_counts_once():
    def event(name, op_type, start, duration):
        return {
            "cat": "Node",
            "name": f"{name}_kernel_time",
            "ts": start,
            "dur": duration,
            "args": {"op_name": op_type},
        }

    events = [
        event("loop", "Loop", 0, 100),
        event("inside", "Add", 10, 20),
        event("choice", "If", 40, 50),
        event("inside", "Add", 50, 20),
        event("after", "Mul", 100, 7),
    ]
    seconds = _by_node(events)
    expected = {("loop", "Loop"): 30, ("inside", "Add"): 40, ("choice", "If"): 30, ("after", "Mul"): 7}
    assert {key: value * 1e6 for key, value in seconds.items()} == pytest.approx(expected)


@pytest.mark.native
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "'nothing' does not exist"),
        ([Path(__file__)], "is not an ONNX model, or is cut short"),
        ([MODELS], f"'{MODELS}' has no 'training_model.onnx': name a folder that ONNX Runtime's generate_artifacts"),
        ([MODELS / "conv1d_signals" / "eval_model.onnx"], "has no batch norm that a rewrite replaces"),
        ([SIGNALS, "--op", "ChannelStats"], "--op is of kernels: leave it out, or leave out the MODEL"),
        ([SIGNALS, "--shapes", "nhwc"], "--shapes is of kernels"),
        ([SIGNALS, "--type", "float32"], "--type is of kernels"),
        (["--batch", 4], "--batch needs a MODEL"),
        ([SIGNALS, "--json", "/nowhere/out.json"], "there is no such folder"),
    ],
)
def test_bad_input(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.native
@pytest.mark.training
@pytest.mark.parametrize("file", ["checkpoint", "training_model.onnx", "optimizer_model.onnx"])
def test_artifacts_that_do_not_load(tmp_path, file):
    folder = tmp_path / "artifacts"
    shutil.copytree(SIGNALS, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    result = run(folder)
    assert result.exit_code == 2
    assert str(folder / file) in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.native
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SIGNALS, "the installed onnxruntime cannot train"),
        # Which of its ops, or of its opsets, is met first is ONNX Runtime's affair.
        (SIGNALS / "training_model.onnx", f"onnx-cbp: '{SIGNALS / 'training_model.onnx'}' "),
    ],
)
def test_without_the_training_build(source, message):
    if _trains():
        pytest.skip("this onnxruntime trains")
    result = run(source)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def _trains():
    from onnxruntime.capi import _pybind_state

    return hasattr(_pybind_state, "Module")
