"""`check` of a model in which batch norms were made to train, or frozen: the reason is said, and nothing is blamed."""

from __future__ import annotations

import json

import onnx
import pytest

import onnx_cbp
from support.models import TRAINING, op_types, parse

#: Two batch norms, one in inference form; its running statistics are constants.
BOTH = """
<ir_version: 8, opset_import: ["" : OPSET]>
agraph (float[N, 3, L] x, float[3] mean, float[3] var) => (float[N, 3, L] y, float[3] new_mean, float[3] new_var)
<float[3] scale = {1.5, 0.5, -2.0}, float[3] B = {0.5, 0.0, 1.0}, float[3] m = {1.0, -2.0, 0.25},
 float[3] v = {2.0, 4.0, 1.0}>
{
    a = BatchNormalization (x, scale, B, m, v)
    r = Relu (a)
    y, new_mean, new_var = BatchNormalization <training_mode: int = 1> (r, scale, B, mean, var)
}
"""


@pytest.fixture(params=[15, 17])
def both(request, tmp_path):
    model = parse(BOTH.replace("OPSET", str(request.param)))
    for node, name in zip(model.graph.node, ("first", "relu", "second"), strict=True):
        node.name = name
    onnx.save(model, tmp_path / "both.onnx")
    return tmp_path / "both.onnx"


def _blames(document: dict) -> list[str]:
    return [document[key] for key in ("fusions_note", "blame") if document[key] is not None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--train", "first"), ["--train made 'first' train"]),
        (("--train", "*"), ["--train made 'first' train"]),
        (("--freeze", "second"), ["--freeze made 'second' keep to the running statistics"]),
        (("--train", "f*", "--freeze", "sec*"), ["--train made 'first' train", "--freeze made 'second' keep"]),
        (("--train", "first", "--no-one-pass"), ["--train made 'first' train"]),
        (("--train", "first", "--portable"), ["--train made 'first' train"]),
    ],
)
def test_the_reason_is_said(both, tmp_path, run, options, said):
    out = tmp_path / "out.onnx"
    assert run("rewrite", both, "-o", out, *options).exit_code == 0
    result = run("check", both, out, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert all(each in document["modes"] for each in said)
    assert _blames(document) == []
    assert len(document["fusions"]) >= 1
    for arguments in ((), ("--no-fusions",)):
        shown = run("check", both, out, *arguments)
        assert shown.exit_code == 1
        assert all(each in shown.stdout for each in said)
        assert "another model" not in shown.stdout
        assert "to blame" not in shown.stdout


def test_nothing_is_said_of_a_model_that_kept_its_modes(both, tmp_path, run):
    out = tmp_path / "out.onnx"
    run("rewrite", both, "-o", out)
    result = run("check", both, out, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["modes"] is None


def test_what_was_altered_besides_is_still_seen(both, tmp_path, run):
    model = onnx_cbp.rewrite(both, train="first")
    node = next(node for node in model.graph.node if node.op_type.startswith("BatchNorm"))
    next(a for a in node.attribute if a.name == "epsilon").f = 0.1
    onnx.save(model, tmp_path / "out.onnx")
    document = json.loads(run("check", both, tmp_path / "out.onnx", "--json").stdout)
    assert "--train made 'first' train" in document["modes"]
    assert "it was altered" in document["fusions_note"]


@pytest.mark.training
def test_of_a_graph_with_a_gradient(tmp_path, run):
    path, out = tmp_path / "training.onnx", tmp_path / "out.onnx"
    onnx.save(parse(TRAINING), path)
    assert run("rewrite", path, "-o", out, "--freeze", "*").exit_code == 0
    assert "ChannelNormalize" in op_types(onnx.load(out))
    document = json.loads(run("check", path, out, "--json").stdout)
    assert "--freeze made" in document["modes"]
    assert _blames(document) == []
