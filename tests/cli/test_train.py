"""`onnx-cbp rewrite --train`, and its momentum."""

from __future__ import annotations

import json

import onnx
import pytest

from support.models import FORWARD, op_types, parse


@pytest.fixture
def frozen(tmp_path):
    text = FORWARD.replace("training_mode: int = 1", "training_mode: int = 0").replace("y, new_mean, new_var =", "y =")
    model = parse(text.replace(", float[3] new_mean, float[3] new_var)", ")"))
    model.graph.node[0].name = "layer1.bn"
    onnx.save(model, tmp_path / "frozen.onnx")
    return tmp_path / "frozen.onnx"


def test_inspect_names_the_option_and_it_works(run, frozen, tmp_path):
    assert "--train 'layer1.bn' makes it train" in " ".join(run("inspect", frozen, "--json").stdout.split())
    result = run("rewrite", frozen, "-o", tmp_path / "out.onnx", "--train", "layer1.bn")
    assert result.exit_code == 0
    assert "1 batch norm node: 1 rewritten, 0 left alone" in result.stdout
    assert op_types(onnx.load(tmp_path / "out.onnx")) == ["BatchNormTrainUpdate"]


def test_a_pattern_that_chooses_nothing_writes_nothing(run, frozen, tmp_path):
    result = run("rewrite", frozen, "-o", tmp_path / "out.onnx", "--train", "layer1.*", "--train", "layer2.*")
    assert result.exit_code == 2
    assert "train: 'layer2.*' chooses no batch norm of the model" in result.stderr
    assert not (tmp_path / "out.onnx").exists()


def _momenta(path):
    model = onnx.load(path)
    return [a.f for node in model.graph.node for a in node.attribute if a.name == "momentum"]


def test_momentum_is_a_number_or_the_average_of_all_or_by_name(run, forward, tmp_path):
    out = tmp_path / "out.onnx"
    for given, want in ((["0.25"], 0.25), (["y=0.5"], 0.5), (["a=b*=0.1", "?=1"], None), (["y=0", "*=0.3"], 0.0)):
        options = [word for value in given for word in ("--momentum", value)]
        result = run("rewrite", forward, "-o", out, *options)
        if want is None:
            assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
            assert "'a=b*' chooses no batch norm" in result.stderr
        else:
            assert result.exit_code == 0, result.output
            assert _momenta(out) == pytest.approx([want])
    assert run("rewrite", forward, "-o", out, "--momentum", "cumulative").exit_code == 0
    assert "mean.num_batches_tracked" in [value.name for value in onnx.load(out).graph.input]
    for wrong in ("2", "often", "y=", "nan"):
        result = run("rewrite", forward, "-o", tmp_path / "no.onnx", "--momentum", wrong)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "momentum: " in result.stderr
    assert not (tmp_path / "no.onnx").exists()


def test_a_momentum_that_moves_nothing_is_one_line(run, forward, tmp_path):
    onnx.save(onnx.parser.parse_model(FORWARD.replace("0.8", "1.0")), tmp_path / "model.onnx")
    found = json.loads(run("inspect", tmp_path / "model.onnx", "--json").stdout)["findings"]
    assert "momentum is 1: no step moves the running statistics" in found[0]["explanation"]
    lines = run("rewrite", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx").stdout.splitlines()
    assert sum(line.startswith("momentum 1 of 'y': no step moves") and "--momentum" in line for line in lines) == 1
    for path, options in ((forward, []), (tmp_path / "model.onnx", ["--momentum", "0.9"])):
        assert "no step moves" not in run("rewrite", path, "-o", tmp_path / "out.onnx", *options).stdout
