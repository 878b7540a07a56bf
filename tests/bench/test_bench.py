"""That the benchmark runs, compares and says what it did. No test here looks at a time."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from onnx_cbp.bench import KERNELS, Runtime, load_shapes, running, shape_sets
from onnx_cbp.bench.data import write_inputs
from onnx_cbp.bench.dtypes import DTYPES
from onnx_cbp.bench.rounds import Candidate
from onnx_cbp.bench.runtimes import Worker
from onnx_cbp.bench.shapes import Shape
from onnx_cbp.bench.tasks import own_task
from onnx_cbp.cli import cli
from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.custom_ops.library import get_library_path

TINY = {
    "description": "tiny",
    "shapes": [
        {"name": "plane", "shape": [4, 6, 5, 5]},
        {"name": "last", "shape": [4, 5, 5, 6], "axis": -1},
        {"name": "line", "shape": [4, 6, 9]},
        {"name": "features", "shape": [16, 6]},
    ],
}
TRAINS = "BatchNormInternal"


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def run(*arguments):
    return CliRunner().invoke(cli, ["bench", "--quick", "--rounds", "1", *(str(a) for a in arguments)])


def _said(result):
    """What is on standard error, but for lines of progress."""
    return [line for line in result.stderr.splitlines() if not line.startswith("measuring ")]


@pytest.mark.parametrize("data", ["float32", "float64", "float16", "bfloat16"])
def test_every_kernel_agrees_with_every_peer(tiny, tmp_path, data):
    out = tmp_path / "out.json"
    result = run("--shapes", tiny, "--type", data, "--threads", 1, "--json", out)
    assert (result.exit_code, _said(result)) == (0, []), result.output
    document = json.loads(out.read_text())
    assert document["agrees"] is True
    results = document["results"]
    assert [(r["op"], r["name"]) for r in results] == [(op, s["name"]) for s in TINY["shapes"] for op in KERNELS]
    compared = [p for r in results for p in r["peers"] if p["ratio"] is not None]
    assert compared or data in ("float16", "bfloat16")
    assert all(p["agrees"] and p["difference"] < 1e-2 for p in compared)


def test_what_the_document_says(tiny, tmp_path):
    out = tmp_path / "out.json"
    result = run("--shapes", tiny, "--op", "BatchNormTrainUpdate", "--threads", 1, "--threads", 2, "--json", out)
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text())
    assert set(document) == {"machine", "versions", "settings", "agrees", "results"}
    assert document["machine"]["cores"] > 0
    assert document["versions"]["runtimes"]["ours"]["onnxruntime"] == onnxruntime.__version__
    settings = document["settings"]
    assert (settings["seed"], settings["rounds"], settings["quick"], settings["threads"]) == (0, 1, True, [1, 2])
    first = document["results"][0]
    assert (first["set"], first["shape"], first["axis"], first["type"]) == ("tiny", [4, 6, 5, 5], 1, "float32")
    assert first["bytes"] == 2 * 4 * 6 * 5 * 5 * 4  # X once and Y once
    assert len(first["rounds_s"]) == len(first["read"]["rounds_s"]) == 1
    assert first["gb_per_s"] == pytest.approx(first["bytes"] / first["median_s"] / 1e9)
    assert first["percent_of_read"] == pytest.approx(100 * first["read"]["median_s"] / first["median_s"])
    peer = next(p for p in first["peers"] if p["kernel"] == "BatchNormalization")
    assert peer["ratio"] == pytest.approx(peer["median_s"] / first["median_s"])
    missing = next(p for p in first["peers"] if p["kernel"] == TRAINS)
    assert (missing["ratio"] is None) == bool(missing["missing"])
    last = next(r for r in document["results"] if r["name"] == "last")
    assert {p["missing"] for p in last["peers"] if p["runtime"] == "this"} == {"not for this layout"}


def test_table(tiny):
    result = run("--shapes", tiny, "--op", "BatchNormTrainUpdate", "--threads", 1)
    assert result.exit_code == 0
    assert "tiny (float32): tiny" in result.stdout
    head = result.stdout.split("BatchNormTrainUpdate")[0].split()
    assert {"op", "shape", "this:", "ONNX"} <= set(head)  # headings are folded where there is no room
    rows = [line for line in result.stdout.splitlines() if line.split()[:1] == ["BatchNormTrainUpdate"]]
    assert len(rows) == len(TINY["shapes"])


def test_a_peer_that_differs_is_not_measured(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(running.TOLERANCES, "float32", -1.0)
    out = tmp_path / "out.json"
    result = run("--shapes", tiny, "--op", "ChannelNormalize", "--threads", 1, "--json", out)
    assert result.exit_code == 1
    assert "differs" in result.stdout
    assert "its results differ from ours by" in result.stdout.splitlines()[-1]
    document = json.loads(out.read_text())
    assert document["agrees"] is False
    assert document["results"][0]["peers"][0]["rounds_s"] == []


def test_another_interpreter(tiny):
    result = run("--shapes", tiny, "--op", "ChannelStats", "--threads", 1, "--runtime", f"other={sys.executable}")
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_plot(tiny, tmp_path):
    picture = tmp_path / "out.png"
    result = run("--shapes", tiny, "--op", "ChannelNormalize", "--threads", 1, "--plot", picture)
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_plot_without_matplotlib(tiny, tmp_path):
    result = run("--shapes", tiny, "--plot", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "pip install matplotlib" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "nothing"], "there is no shape set 'nothing'; use few_channels"),
        (["--shapes", "nothing.json"], "'nothing.json': No such file or directory"),
        (["--runtime", "torch"], "'torch' is not NAME=PYTHON"),
        (["--runtime", "this=python"], "the name 'this' is taken"),
        (["--runtime", "other=/nowhere/python"], "'/nowhere/python' cannot be run: No such file"),
        (["--runtime", "other=/bin/true"], "is no Python interpreter"),
        (["--op", "Conv"], "'Conv' is not one of"),
        (["--json", "/nowhere/out.json"], "there is no such folder"),
        (["--threads", "0"], "0 is not in the range"),
    ],
)
def test_bad_options(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"shapes": []}', '{"shapes": [{"name": "x", "shape": [3]}]}', '{"shapes": [{"name": "x"}]}'],
)
def test_bad_shape_sets(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    result = run("--shapes", path)
    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_offers_every_kernel():
    command = sys.modules["onnx_cbp.cli.commands.bench"]  # not as an attribute: that is the command itself
    assert tuple(KERNELS) == command._OPS
    assert set(KERNELS) <= set(OPERATORS)


@pytest.mark.parametrize("name", ["few_channels", "nhwc", "one_d", "resnet50", "small_planes", "three_d"])
def test_shape_sets_come_with_the_package(name):
    assert name in shape_sets()
    shapes = load_shapes(name)
    assert shapes.description
    assert all(s.elements * 4 < 2**30 for s in shapes.shapes)


@pytest.mark.parametrize("axis", [1, -1])
def test_bfloat16_is_given_to_the_kernels_and_taken_from_them_as_it_is(axis, tmp_path):
    shape = Shape("x", (3, 4, 5, 4), axis)
    inputs = write_inputs(shape, "bfloat16", 0, tmp_path)
    for name in ("X", "dY", "Y"):
        value = np.load(inputs[name])
        np.testing.assert_array_equal(value, value.astype(DTYPES["bfloat16"]).astype(np.float32))
    results = {}
    for data in ("bfloat16", "float32"):  # the float32 kernel reads the same numbers
        with Worker(Runtime("ours", sys.executable, "onnxruntime")) as worker:
            task = own_task(KERNELS["BatchNormGrad"], shape, data, inputs, get_library_path())
            worker.ask("prepare", id="ours", threads=1, task=task)
            results[data] = Candidate(worker, "ours").outputs(tmp_path)
    assert not np.array_equal(results["bfloat16"]["dX"], results["float32"]["dX"])
    for name, value in results["float32"].items():
        bound = 2.0**-8 if name == "dX" else 1e-6
        np.testing.assert_allclose(results["bfloat16"][name], value, rtol=bound, atol=bound * np.abs(value).max())


def test_what_a_peer_has_not_for_a_type_is_said(tiny):
    result = run("--shapes", tiny, "--op", "BatchNormTrainUpdate", "--threads", 1, "--type", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "this: ONNX op: nothing to measure (Could not find an implementation for BatchNormalization" in result.stdout


def test_the_worker_needs_nothing_of_the_package():
    import onnx_cbp.bench.worker as worker

    assert "onnx_cbp" not in Path(worker.__file__).read_text()
