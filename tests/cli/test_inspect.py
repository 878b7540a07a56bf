"""`onnx-cbp inspect`: its table, its JSON and its hints."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import onnx
import pytest
from rich.console import Console

import onnx_cbp
from onnx_cbp.cli.findings import print_findings
from support.models import parse
from support.training import MODELS

MIXED = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[N, 3, 4] z)
{
    [trains] y, rm, rv = BatchNormalization <training_mode: int = 1> (x, s, b, m, v)
    [frozen] z = BatchNormalization (y, s, b, m, v)
}
"""


@pytest.fixture
def mixed(tmp_path):
    path = tmp_path / "mixed.onnx"
    model = parse(MIXED.replace("[trains] ", "").replace("[frozen] ", ""))
    model.graph.node[0].name, model.graph.node[1].name = "trains", "frozen"
    onnx.save(model, path)
    return path


def test_a_table_and_one_line(run, mixed):
    result = run("inspect", mixed)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert any("trains" in line and "[N,3,4]" in line and "onnx_cbp ops" in line for line in lines)
    assert any("frozen" in line and "left alone" in line for line in lines)
    assert lines[-1] == "2 batch norm nodes: 1 would be rewritten, 1 left alone"


def test_json(run, mixed):
    result = run("inspect", mixed, "--json")
    document = json.loads(result.stdout)
    assert document["model"] == str(mixed)
    assert document["counts"] == {"total": 2, "rewritten": 1, "left_alone": 1}
    assert [f["node"] for f in document["findings"]] == ["trains", "frozen"]
    assert set(document["findings"][0]) == {"node", "form", "shape", "rewritten", "explanation", "state"}
    assert [f["state"] for f in document["findings"]] == ["rewritten", "frozen"]
    assert [f["rewritten"] for f in document["findings"]] == [True, False]


def test_the_module_that_an_exporter_wrote_down_is_shown_and_taken(run, tmp_path, mixed):
    model = onnx.load(mixed)
    model.graph.node[0].metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'layer1', 'layer1.bn', 'batch_norm']"
    )
    onnx.save(model, tmp_path / "model.onnx")
    assert "trains (layer1.bn)" in run("inspect", tmp_path / "model.onnx").stdout
    findings = json.loads(run("inspect", tmp_path / "model.onnx", "--json").stdout)["findings"]
    assert [f.get("module") for f in findings] == ["layer1.bn", None]
    result = run("rewrite", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx", "--freeze", "layer1")
    assert result.exit_code == 0, result.output
    assert next(n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node) == "ChannelNormalize"


def test_nothing_found(run, plain):
    result = run("inspect", plain)
    assert (result.exit_code, result.stdout.strip()) == (
        0,
        "0 batch norm nodes: 0 would be rewritten, 0 left alone",
    )
    assert json.loads(run("inspect", plain, "--json").stdout)["findings"] == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("bn[bold]:smile:[/bold]", "bn[bold]:smile:[/bold]"),  # no markup
        ("bn\x1b[31m\nred", r"bn\x1b[31m\nred"),  # no control over the terminal, one line
        ("bn\N{GREEK SMALL LETTER GAMMA}", "bn\N{GREEK SMALL LETTER GAMMA}"),
    ],
)
def test_names_are_shown_as_text(run, tmp_path, mixed, name, shown):
    model = onnx.load(mixed)
    model.graph.node[0].name = name
    onnx.save(model, tmp_path / "named.onnx")
    assert any(shown in line for line in run("inspect", tmp_path / "named.onnx").stdout.splitlines())


def test_long_names_are_cut_in_the_middle_and_whole_with_json(run, tmp_path, mixed):
    name = "/first" + "/layer" * 60 + "/bn"
    model = onnx.load(mixed)
    model.graph.node[0].name = name
    onnx.save(model, tmp_path / "named.onnx")
    lines = run("inspect", tmp_path / "named.onnx").stdout.splitlines()
    row = next(line for line in lines if "[N,3,4]" in line)
    assert row.split()[0].startswith("/first/")
    assert row.split()[0].endswith("/bn")
    assert "…" in row
    assert len(row) <= 100
    document = json.loads(run("inspect", tmp_path / "named.onnx", "--json").stdout)
    assert document["findings"][0]["node"] == name


TRAINED = MODELS / "resnet_digits" / "training_model.onnx"


@pytest.mark.parametrize("width", [80, 100, 132])
@pytest.mark.parametrize("sample", ["resnet_digits", "mobilenet_digits", "unet_digits"])
@pytest.mark.parametrize("verbose", [True, False])
def test_it_fits_a_terminal(width, sample, verbose):
    written = io.StringIO()
    findings = onnx_cbp.inspect(MODELS / sample / "training_model.onnx")
    print_findings(
        Console(file=written, width=width, color_system=None), findings, "what rewrite does", verbose=verbose
    )
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if "[N," in line]
    layers = sum(not f.forward for f in findings)
    assert len(rows) == (layers if verbose or layers <= 10 else 1)
    assert all("+ Grad" in row and "onnx_cbp ops" in row for row in rows)


def test_layers_are_summed_up_and_listed_when_asked(run):
    short, long = (run("inspect", TRAINED, *more).stdout.splitlines() for more in ((), ("--verbose",)))
    assert [line.split()[:4] for line in short if "[N," in line] == [["15", "BatchNormInternal", "+", "Grad"]]
    assert len([line for line in long if "[N," in line]) == 15
    assert short[-1] == long[-1] == "30 batch norm nodes: 30 would be rewritten, 0 left alone"


def test_a_gradient_names_its_forward_node(run, tmp_path):
    rewritten = tmp_path / "rewritten.onnx"
    assert run("rewrite", TRAINED, "-o", rewritten).exit_code == 0
    for model, state in ((TRAINED, "rewritten"), (rewritten, "done")):
        findings = json.loads(run("inspect", model, "--json").stdout)["findings"]
        forward = [f["node"] for f in findings if "forward" not in f]
        assert sorted(f["forward"] for f in findings if "forward" in f) == sorted(forward)
        assert {f["state"] for f in findings} == {state}


def test_a_hint_can_be_copied(run, tmp_path, mixed):
    name = "a layer that is far longer than what is left of the line" * 2
    model = onnx.load(mixed)
    model.graph.node[1].name = name
    onnx.save(model, tmp_path / "named.onnx")
    assert any(f"--train '{name}'" in line for line in run("inspect", tmp_path / "named.onnx").stdout.splitlines())
    assert run("rewrite", tmp_path / "named.onnx", "-o", tmp_path / "out.onnx", "--train", name).exit_code == 0


def test_names_survive_an_encoding_that_lacks_them(tmp_path, mixed):
    model = onnx.load(mixed)
    model.graph.node[0].name = "bn\N{GREEK SMALL LETTER GAMMA}"
    onnx.save(model, tmp_path / "named.onnx")
    result = subprocess.run(
        [sys.executable, "-P", "-m", "onnx_cbp.cli", "inspect", str(tmp_path / "named.onnx")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert r"bn\u03b3" in result.stdout
    assert result.stderr == ""
