"""What `check` says about each fusion, and which it blames."""

from __future__ import annotations

import inspect
import json

import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import InPlacePass, PassResult

import onnx_cbp
import onnx_cbp.rewriting
from onnx_cbp.checking import compare_fusions
from onnx_cbp.cli.commands.rewrite import rewrite as rewrite_command
from onnx_cbp.fusions import FUSIONS
from onnx_cbp.graph_passes import FoldReluPass, ReplaceForwardPass
from support.models import parse

WITH_RELU = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, H, W] x, float[3] gamma, float[3] beta, float[3] mean, float[3] var)
    => (float[N, 3, H, W] y, float[3] new_mean, float[3] new_var)
{
    n, new_mean, new_var = BatchNormalization <training_mode: int = 1> (x, gamma, beta, mean, var)
    y = Relu (n)
}
"""


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "original.onnx"
    onnx.save(parse(WITH_RELU), path)
    return path


@pytest.fixture
def save(tmp_path):
    def to_file(model):
        path = tmp_path / "out.onnx"
        onnx.save(model, path)
        return path

    return to_file


def _wrong(base, *op_types, **only):
    """A pass that gives ops of these types an epsilon of 0.1, only those with the given attributes."""

    class Wrong(InPlacePass):
        def __init__(self, **switches) -> None:
            super().__init__()
            self._right = base(**switches)

        def call(self, model) -> PassResult:
            result = self._right(model)
            for node in model.graph:
                if node.op_type in op_types and all(node.attributes[k].value == v for k, v in only.items()):
                    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.1)
            return result

    return Wrong


def _document(run, *arguments):
    return json.loads(run("check", *arguments, "--json").stdout)


def _names(document):
    return [row["fusion"] for row in document["fusions"]]


def test_every_switch_of_rewrite_is_a_fusion_that_is_shown():
    switches = [p.name for p in inspect.signature(onnx_cbp.rewrite).parameters.values() if p.default is True]
    assert [fusion.name for fusion in FUSIONS] == switches
    options = {option for parameter in rewrite_command.params for option in parameter.secondary_opts}
    assert {fusion.option for fusion in FUSIONS} <= options


def test_a_row_for_each_fusion(run, original, save):
    result = run("check", original, save(onnx_cbp.rewrite(original)))
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["fusion", "on", "outputs", "to", "the", "row", "above"] in rows
    (none,) = (row for row in rows if row[:1] == ["none"])
    assert none[2:] == ["-", "ok"]
    fused = [row for row in rows if row[:1] == ["+"]]
    assert [row[1] for row in fused] == ["one_pass", "fold_relu"]
    assert fused[1][3:] == ["0", "ok"]  # the ReLU of what is already there: the same bits
    assert rows[-1][:2] == ["within", "tolerance:"]


def test_the_figures_are_those_of_the_comparison(run, original, save):
    document = _document(run, original, save(onnx_cbp.rewrite(original)))
    assert _names(document) == [None, "one_pass", "fold_relu"]
    assert document["fusions_note"] is None
    assert document["blame"] is None
    assert document["fusions"][0]["by_itself"] is None
    assert all(row["within_tolerance"] for row in document["fusions"])
    # The last row is OUT itself, and each row before it what another OUT would be.
    for row, switches in zip(document["fusions"], ({"one_pass": False}, {"fold_relu": False}, {}), strict=True):
        alone = _document(run, original, save(onnx_cbp.rewrite(original, **switches)))["differences"]
        assert row["to_original"] == {"output": max(d["relative"] for d in alone)}


@pytest.mark.parametrize(
    ("switches", "rows"),
    [({"one_pass": False}, [None]), ({"fold_relu": False}, [None, "one_pass"]), ({}, [None, "one_pass", "fold_relu"])],
)
def test_only_what_the_model_contains(run, original, save, switches, rows):
    assert _names(_document(run, original, save(onnx_cbp.rewrite(original, **switches)))) == rows


def test_without(run, original, save):
    out = save(onnx_cbp.rewrite(original))
    assert _document(run, original, out, "--no-fusions")["fusions"] == []
    assert "fusion" not in run("check", original, out, "--no-fusions").stdout
    assert "fusion" not in run("check", original, original).stdout


class TestBlame:
    def test_one_fusion(self, run, original, save, monkeypatch):
        wrong = _wrong(FoldReluPass, "BatchNormTrainUpdate", relu=1)
        monkeypatch.setattr(onnx_cbp.rewriting, "FoldReluPass", wrong)
        out = save(onnx_cbp.rewrite(original))
        document = _document(run, original, out)
        assert [row["within_tolerance"] for row in document["fusions"]] == [True, True, False]
        assert document["fusions"][2]["by_itself"]["output"] > 0.01
        assert document["blame"].startswith("fold_relu is to blame: with it off (--no-fold-relu)")
        text = run("check", original, out)
        assert text.exit_code == 1
        assert document["blame"] in text.stdout.splitlines()
        # What the user was told to do helps.
        assert run("rewrite", original, "-o", out, "--no-fold-relu").exit_code == 0
        assert run("check", original, out).exit_code == 0

    def test_none_of_them(self, run, original, save, monkeypatch):
        wrong = _wrong(ReplaceForwardPass, "BatchNormTrainUpdate", "ChannelNormalize")
        monkeypatch.setattr(onnx_cbp.rewriting, "ReplaceForwardPass", wrong)
        document = _document(run, original, save(onnx_cbp.rewrite(original)))
        assert document["blame"] == "without any fusion it is too far apart as well: none is to blame"

    def test_the_tolerance_is_the_users(self, run, original, save, monkeypatch):
        wrong = _wrong(FoldReluPass, "BatchNormTrainUpdate", relu=1)
        monkeypatch.setattr(onnx_cbp.rewriting, "FoldReluPass", wrong)
        out = save(onnx_cbp.rewrite(original))
        document = _document(run, original, out, "--rtol", 1.5)
        assert document["within_tolerance"]
        assert document["blame"] is None
        assert all(row["within_tolerance"] for row in document["fusions"])


class TestAltered:
    def test_a_node(self, run, original, save):
        model = onnx_cbp.rewrite(original)
        next(a for a in model.graph.node[0].attribute if a.name == "epsilon").f = 0.1
        result = run("check", original, save(model))
        assert result.exit_code == 1
        assert "is not what rewrite makes of the original with these fusions (node 'y': another)" in result.stdout
        assert "no fusion is to blame: what rewrite makes of the original is within tolerance" in result.stdout

    @pytest.mark.parametrize(("change", "named"), [("more", "node 'z': more than there"), ("less", "'w': missing")])
    def test_more_and_less(self, change, named):
        text = WITH_RELU.replace("{\n", "{ w = Exp (x)\n", 1)
        model = onnx_cbp.rewrite(parse(text))
        if change == "more":
            model.graph.node.add(op_type="Neg", input=["y"], output=["z"])
        else:
            model.graph.node.remove(next(n for n in model.graph.node if n.op_type == "Exp"))
        differences, effects = compare_fusions(parse(text), model)
        assert all(d.within() for d in differences)
        assert named in effects.note
        assert len(effects.rows) == 3

    def test_a_weight(self, save):
        text = WITH_RELU.replace(", float[3] gamma,", ",").replace("{\n", "<float[3] gamma = {1, 2, 3}> {\n", 1)
        model = onnx_cbp.rewrite(parse(text))
        model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("gamma", 1, [3], [1.0, 2.0, 3.5]))
        _, effects = compare_fusions(parse(text), model)
        assert "(initializer 'gamma': another)" in effects.note
        model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("gamma", 1, [3], [1.0, 2.0, 3.0]))
        assert compare_fusions(parse(text), model)[1].note is None

    def test_what_computes_the_same_is_not_altered(self, original):
        model = onnx_cbp.rewrite(original, one_pass=False, portable=True)
        for node in model.graph.node:
            node.name, node.doc_string = f"renamed {node.name}", "a comment"
            attributes = sorted(node.attribute, key=lambda a: a.name, reverse=True)
            copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in attributes]
            del node.attribute[:]
            node.attribute.extend(copies)
        model = onnx.shape_inference.infer_shapes(model)
        assert compare_fusions(original, model)[1].note is None

    def test_a_model_that_rewrite_makes_nothing_of(self, run, original, save):
        out = save(onnx_cbp.rewrite(original))
        result = run("check", out, out)
        assert result.exit_code == 0
        assert f"'{out}' has ops of ours itself, so what each fusion does cannot be shown" in result.stdout

    def test_another_original(self, save):
        without_relu = WITH_RELU.replace("y = Relu (n)", "y = Max (n)")
        _, effects = compare_fusions(parse(without_relu), onnx_cbp.rewrite(parse(WITH_RELU)))
        assert [row.fusion and row.fusion.name for row in effects.rows] == [None, "one_pass"]
        assert effects.note == (
            "rewrite does not make the fusion fold_relu of the original model: the rewritten model was made of another "
            "model, or altered"
        )


def test_a_model_that_communicates_is_checked_as_the_only_replica(run, original, tmp_path):
    out = tmp_path / "out.onnx"
    onnx.save(onnx_cbp.rewrite(original, synchronize=True), out)
    result = run("check", original, out)
    assert result.exit_code == 0
    assert "exchanges values with other replicas. It was run as the only one" in " ".join(result.stdout.split())
    assert "altered" not in result.stdout


@pytest.mark.parametrize("switches", [{}, {"one_pass": False, "fold_relu": False, "recompute_relu": False}])
def test_of_a_twin_there_is_no_fusion_to_show(run, original, save, tmp_path, switches):
    out = save(onnx_cbp.rewrite(original, **switches))
    twin = tmp_path / "twin.onnx"
    assert run("rewrite", out, "--standard-ops", "-o", twin).exit_code == 0
    document = _document(run, twin, out)
    assert document["within_tolerance"]
    assert document["fusions"] == []
    assert "in ONNX's own ops: no rewrite is between them" in document["fusions_note"]


def test_a_twin_of_another_model_is_none(run, original, save, tmp_path):
    out = save(onnx_cbp.rewrite(original, fold_relu=False))
    twin = tmp_path / "twin.onnx"
    assert run("rewrite", out, "--standard-ops", "-o", twin).exit_code == 0
    other = onnx.load(out)
    next(node for node in other.graph.node if node.op_type == "Relu").op_type = "Elu"
    document = _document(run, twin, save(other))
    assert not document["within_tolerance"]
    assert "in ONNX's own ops" not in document["fusions_note"]
