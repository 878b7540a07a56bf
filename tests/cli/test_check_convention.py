"""`check` of a model whose running variances follow PyTorch's convention."""

from __future__ import annotations

import json

import onnx
import pytest

import onnx_cbp
from support.models import TRAINING, parse

UNBIASED = ["", "--no-one-pass"]


@pytest.mark.parametrize("option", UNBIASED)
def test_the_convention_is_no_error_and_is_said(forward, tmp_path, run, option):
    out = tmp_path / "out.onnx"
    run("rewrite", forward, "-o", out, "--unbiased-running-var", *option.split())
    result = run("check", forward, out)
    assert result.exit_code == 0, result.output
    assert "running variances are unbiased, as in PyTorch" in result.output
    document = json.loads(run("check", forward, out, "--json").stdout)
    assert document["within_tolerance"]
    assert document["fusions_note"] is None, "it is what rewrite makes of the original"
    assert "left out in the comparison" in document["convention"]


def test_a_biased_model_is_not_said_to_be_anything(forward, tmp_path, run):
    out = tmp_path / "out.onnx"
    run("rewrite", forward, "-o", out)
    assert "unbiased" not in run("check", forward, out).output
    assert json.loads(run("check", forward, out, "--json").stdout)["convention"] is None


@pytest.mark.parametrize(("name", "value"), [("momentum", 0.7), ("epsilon", 0.01)])
def test_other_errors_are_seen_all_the_same(forward, tmp_path, run, name, value):
    model = onnx_cbp.rewrite(forward, unbiased_running_var=True)
    (node,) = model.graph.node
    next(a for a in node.attribute if a.name == name).f = value
    onnx.save(model, tmp_path / "out.onnx")
    assert run("check", forward, tmp_path / "out.onnx").exit_code == 1


def test_an_unbiased_running_mean_is_an_error(forward, tmp_path, run):
    model = onnx_cbp.rewrite(forward, unbiased_running_var=True, one_pass=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "unbiased":
                attribute.i = 1
    onnx.save(model, tmp_path / "out.onnx")
    assert run("check", forward, tmp_path / "out.onnx", "--batch", "2").exit_code == 1


@pytest.mark.training
def test_of_a_training_graph_that_writes_them_in_place(tmp_path, run):
    onnx.save(parse(TRAINING), tmp_path / "model.onnx")
    run("rewrite", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx", "--unbiased-running-var")
    result = run("check", tmp_path / "model.onnx", tmp_path / "out.onnx", "--json")
    assert result.exit_code == 0, result.output
    kinds = {d["name"]: d["kind"] for d in json.loads(result.stdout)["differences"]}
    assert kinds["running_var"] == "running statistic"
