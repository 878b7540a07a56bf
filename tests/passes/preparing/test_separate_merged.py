"""Initializers that exporters made one are taken apart; calls of one module and tied weights stay together."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.graph_passes import SeparateMergedPass
from onnx_cbp.training.taking_apart import take_apart

ONES, ZEROS = np.ones(4, np.float32), np.zeros(4, np.float32)
RANDOM = np.random.default_rng(0).normal(size=4).astype(np.float32)


def _model(layers, initializers, *, scopes=True, constant=False) -> onnx.ModelProto:
    """Batch norms behind one another; each layer is the path of its module, and its scale, B, mean and var."""
    nodes, x = [], "x"
    for index, (path, *inputs) in enumerate(layers):
        node = helper.make_node("BatchNormalization", [x, *inputs], [f"y{index}"], name=f"bn_{index}")
        if scopes:
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(["", *([path] if path else []), "op"]))
        nodes.append(node)
        x = f"y{index}"
    if constant:
        one = numpy_helper.from_array(np.float32(1))
        nodes += [helper.make_node("Constant", [], ["one"], value=one), helper.make_node("Mul", [x, "one"], ["out"])]
        x = "out"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _apart(model: onnx.ModelProto, trained=None, frozen=(), tied=None):
    changed = ir.from_proto(model)
    wanted, kept = take_apart(changed, trained, frozen, tied)
    result = ir.to_proto(changed)
    onnx.checker.check_model(result)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    before, after = (ReferenceEvaluator(each).run(None, {"x": x})[0] for each in (model, result))
    np.testing.assert_array_equal(after, before)
    return [list(n.input[1:]) for n in result.graph.node if n.op_type == "BatchNormalization"], wanted, kept


FRESH = [(path, "a.weight", "a.bias", "a.bias", "a.weight") for path in ("a", "b.bn")]
VALUES = {"a.weight": ONES, "a.bias": ZEROS}
OWN = [[f"{path}.{role}" for role in ("weight", "bias", "running_mean", "running_var")] for path in ("a", "b.bn")]


def test_layers_of_a_fresh_network(caplog):
    read, wanted, _ = _apart(_model(FRESH, VALUES), ["a.weight", "a.bias"])
    assert read == OWN
    assert wanted == ["a.weight", "b.bn.weight", "a.bias", "b.bn.bias"]
    (record,) = [each for each in caplog.records if each.name == "onnx_cbp"]
    assert "'a.weight' is 'a.weight', 'b.bn.weight'" in record.message
    assert "\n" not in record.message


def test_calls_of_one_module_stay_together():
    layers = [FRESH[0], FRESH[1], FRESH[0]]
    read, wanted, _ = _apart(_model(layers, VALUES), ["a.weight", "a.bias"])
    assert read == [*OWN, OWN[0]]
    assert wanted == ["a.weight", "b.bn.weight", "a.bias", "b.bn.bias"]


def test_names_of_the_module_stand_for_themselves(caplog):
    for trained in (["b.bn.weight"], ["b.bn.weight", "a.bias"], ["b.bn.weight", "a.weight"]):
        read, wanted, _ = _apart(_model(FRESH, VALUES), trained)
        assert read == OWN
        assert wanted == trained
    assert not [each for each in caplog.records if each.name == "onnx_cbp"]


def test_what_is_frozen_by_name_is_not_trained():
    _, wanted, kept = _apart(_model(FRESH, VALUES), ["a.weight"], ["b.bn.weight", "a.bias"])
    assert wanted == ["a.weight"]
    assert kept == ["b.bn.weight", "a.bias"]


@pytest.mark.parametrize("scopes", [True, False])
def test_a_statistic_is_never_one_with_what_trains(scopes):
    layers = [("", *FRESH[0][1:])]
    (read,), wanted, _ = _apart(_model(layers, VALUES, scopes=scopes), ["a.weight", "a.bias"])
    assert read[:2] == ["a.weight", "a.bias"]
    assert len(set(read)) == 4
    assert wanted == ["a.weight", "a.bias"]


def test_copies_with_names_of_parameters():
    """PyTorch's older exporter writes them; what it ties, it lets two layers read without a copy."""
    layers = [("", "a.weight", "a.bias", "a.running_mean", "a.running_var"), ("", "b.weight", "a.bias", "b.m", "b.v")]
    model = _model(layers, {**VALUES, "b.m": RANDOM, "b.v": RANDOM**2}, scopes=False)
    copied = {"b.weight": "a.weight", "a.running_var": "a.weight", "a.running_mean": "a.bias"}
    for name, source in copied.items():
        model.graph.node.insert(0, helper.make_node("Identity", [source], [name]))
    read, wanted, _ = _apart(model, ["a.weight", "a.bias"])
    assert read == [list(layer[1:]) for layer in layers]
    assert wanted == ["a.weight", "b.weight", "a.bias"]
    assert _apart(model, ["b.weight"])[1] == ["b.weight"]


@pytest.mark.parametrize("reason", ["equal ones are left", "constants are left", "a transpose is left", "large"])
def test_where_nothing_was_merged_weights_are_tied(reason):
    size = 1025 if reason == "large" else 4
    layers = [("a", "w", "b.a", "m.a", "v.a"), ("b", "w", "b.b", "m.b", "v.b")]
    rng = np.random.default_rng(2)
    values = {
        name: rng.uniform(1, 2, size).astype(np.float32) for name in ("w", *(f"{k}.{n}" for k in "bmv" for n in "ab"))
    }
    if reason == "equal ones are left":
        values["m.a"] = values["b.a"] = ZEROS
    model = _model(layers, values, constant=reason == "constants are left")
    if reason == "large":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[1].dim_value = size
    if reason == "a transpose is left":
        model.graph.initializer.append(numpy_helper.from_array(rng.uniform(1, 2, (4, 4)).astype(np.float32), "square"))
        model.graph.node.insert(0, helper.make_node("Transpose", ["square"], ["turned"]))
    changed = ir.from_proto(model)
    assert not SeparateMergedPass(["w"])(changed).modified
    # Under another name of the module's it is the same one.
    assert take_apart(changed, ["a.weight"], ()) == (["w"], [])


@pytest.mark.parametrize("scopes", [True, False])
def test_what_cannot_be_told_is_refused(scopes):
    """Layers that are copies of one another are merged as equal, weights may be tied."""
    values = {**VALUES, "w": RANDOM if scopes else ONES}
    layers = [(path, "w", "a.bias", "a.bias", "v" if scopes else "w") for path in ("a", "b")]
    model = _model(layers, {**values, "v": ONES + 1}, scopes=scopes)
    before = ir.from_proto(model)
    with pytest.raises(OnnxCbpError, match=r"initializer 'w' is read by .* optimize=False") as error:
        SeparateMergedPass(["w"])(before)
    assert "\n" not in str(error.value)
    assert [v.name for node in before.graph for v in node.inputs[1:]] == [
        name for layer in layers for name in layer[1:]
    ]
    # Nobody trains it, or whoever does names both.
    if scopes:
        _apart(model, ["a.bias"])
        read, wanted, _ = _apart(model, ["a.weight", "b.weight"])
        assert [names[0] for names in read] == ["w", "b.weight"]
        assert wanted == ["w", "b.weight"]


@pytest.mark.parametrize("trained", [["w", "a.bias"], None])
def test_who_calls_says_what_is_tied(trained):
    layers = [(path, "w", "a.bias", "a.bias", "v") for path in ("a", "b")]
    model = _model(layers, {**VALUES, "w": RANDOM, "v": ONES + 1})
    with pytest.raises(OnnxCbpError, match=r"tied_params=\['w'\] \(--tied\) or tied_params=\[\]"):
        _apart(model, trained)
    for tied in (["w"], ["*"], ["b.weight"], ["a.w*"]):
        read, wanted, _ = _apart(model, trained, tied=tied)
        assert [names[0] for names in read] == ["w", "w"]
        assert [names[1] for names in read] == ["a.bias", "b.bias"], "fresh ones are nobody's choice"
        assert wanted == (None if trained is None else ["w", "a.bias", "b.bias"])
    read, wanted, _ = _apart(model, trained, tied=[])
    assert [names[0] for names in read] == ["w", "b.weight"]
    assert wanted == (None if trained is None else ["w", "b.weight", "a.bias", "b.bias"])
    with pytest.raises(OnnxCbpError, match=r"tied_params: 'fc' is no parameter that several modules read; .*'w'"):
        _apart(model, trained, tied=["fc"])


def test_a_bias_that_is_back_does_not_hide_what_was_merged():
    model = _model(
        [(path, "w", "a.bias", "a.bias", "v") for path in ("a", "b")], {"a.bias": ZEROS, "w": RANDOM, "v": ONES}
    )
    layer = helper.make_node("Gemm", ["y1", "fc.weight"], ["logits"], transB=1)
    call = "%l : [num_users=1] = call_function[target=aten.linear.default](args = (%y1, %p_fc_weight, %p_fc_bias))"
    layer.metadata_props.add(key="pkg.torch.onnx.fx_node", value=call)
    layer.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'fc', 'linear']")
    layer.metadata_props.add(key="pkg.onnxscript.rewriter.rule_name", value="RemoveOptionalBiasFromGemm")
    model.graph.node.append(layer)
    model.graph.output[0].name = "logits"
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "fc.weight"))
    with pytest.raises(OnnxCbpError, match="initializer 'w' is read by"):
        _apart(model, ["w", "fc.weight"])
    read, wanted, _ = _apart(model, ["a.bias", "fc.weight"])
    assert wanted == ["a.bias", "b.bias", "fc.weight", "fc.bias"]
    assert [names[1] for names in read] == ["a.bias", "b.bias"]


def test_nothing_shared_is_nothing_changed():
    layers = [("a", "w", "b", "m", "v")]
    model = _model(layers, {"w": ONES, "b": ZEROS, "m": ZEROS, "v": ONES})
    assert not SeparateMergedPass()(ir.from_proto(model)).modified
    changed = ir.from_proto(_model(FRESH, VALUES))
    assert SeparateMergedPass()(changed).modified
    assert not SeparateMergedPass()(changed).modified


def test_inspect_says_it():
    for finding in onnx_cbp.inspect(_model(FRESH, VALUES)):
        assert "merged into 'a.weight' and 'a.bias'" in finding.explanation
    apart = _model([("a", "w", "b", "m", "v")], {"w": ONES, "b": ZEROS, "m": ZEROS, "v": ONES})
    assert "merged" not in onnx_cbp.inspect(apart)[0].explanation
