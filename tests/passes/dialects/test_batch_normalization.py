"""BatchNormalization with training_mode = 1, as exporters write it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_cbp
from support.models import FORWARD, INFERENCE, fresh_batch_norm, op_types, parse
from support.ops import session


def _feeds(model, seed=0):
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        shape = [d.dim_value or 5 for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.uniform(0.5, 2.0, shape).astype(np.float32)
    return feeds


def _assert_same_results(original, rewritten, backend, tolerance=2e-6):
    feeds = _feeds(original)
    want = session(original, None).run(None, feeds)
    for got, expected in zip(session(rewritten, backend).run(None, feeds), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("backend", ["python", pytest.param("native", marks=pytest.mark.native)])
def test_results_and_running_statistics_are_the_originals(backend, one_pass):
    model = parse(FORWARD)
    rewritten = onnx_cbp.rewrite(model, one_pass=one_pass)
    steps = ["ChannelStats", "ChannelNormalize", "RunningStats", "RunningStats"]
    assert op_types(rewritten) == (["BatchNormTrainUpdate"] if one_pass else steps)
    _assert_same_results(model, rewritten, backend)


def test_the_result_is_a_valid_model_and_the_input_is_untouched():
    model = parse(FORWARD)
    before = model.SerializeToString(deterministic=True)
    rewritten = onnx_cbp.rewrite(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(rewritten, full_check=True)
    assert [o.name for o in rewritten.graph.output] == ["y", "new_mean", "new_var"]
    assert [o.type for o in rewritten.graph.output] == [o.type for o in model.graph.output]
    assert list(rewritten.graph.input) == list(model.graph.input)


def test_a_second_rewrite_changes_nothing():
    once = onnx_cbp.rewrite(parse(FORWARD))
    twice = onnx_cbp.rewrite(once)
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_new_values_carry_type_and_shape():
    rewritten = onnx_cbp.rewrite(parse(FORWARD))
    known = {v.name: v.type.tensor_type for v in rewritten.graph.value_info}
    known |= {v.name: v.type.tensor_type for v in rewritten.graph.output}
    for node in rewritten.graph.node:
        for name in node.output:
            assert known[name].elem_type, name
            assert known[name].HasField("shape"), name


def test_metadata_stays():
    model = parse(FORWARD)
    model.doc_string, model.producer_name, model.model_version = "doc", "exporter", 7
    helper.set_model_props(model, {"trained": "never"})
    model.graph.doc_string = "graph doc"
    node = model.graph.node[0]
    node.name, node.doc_string = "bn1", "from layer1"
    node.metadata_props.add(key="pkg", value="layer1.bn")
    model.training_info.add().initialization.name = "init"
    rewritten = onnx_cbp.rewrite(model)
    assert (rewritten.doc_string, rewritten.producer_name, rewritten.model_version) == (
        "doc",
        "exporter",
        7,
    )
    assert rewritten.metadata_props == model.metadata_props
    assert rewritten.graph.doc_string == "graph doc"
    assert rewritten.training_info == model.training_info
    for new in rewritten.graph.node:
        assert new.name.startswith("bn1/")
        assert new.doc_string == "from layer1"
        assert new.metadata_props == node.metadata_props


def test_names_that_are_taken_are_not_taken_twice():
    text = FORWARD.replace("x, gamma", "y_mean, gamma").replace("float[N, 3, H, W] x,", "float[N, 3, H, W] y_mean,")
    model = parse(text)
    model.graph.node[0].name = "y"
    model.graph.input[0].name = "y/mean"
    model.graph.node[0].input[0] = "y/mean"
    rewritten = onnx_cbp.rewrite(model)
    onnx.checker.check_model(rewritten, full_check=True)
    names = [o for node in rewritten.graph.node for o in node.output]
    assert len(set(names)) == len(names)
    assert "y/mean" not in names


def test_running_statistics_that_nothing_reads_are_not_computed():
    assert "RunningStats" not in op_types(onnx_cbp.rewrite(fresh_batch_norm(0.9)))


def test_nodes_without_names_and_batch_norms_in_a_row():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2] x, float[2] s, float[2] b, float[2] m, float[2] v) => (float[N, 2] y, float[N, 2] z)
{
    a, am, av = BatchNormalization <training_mode: int = 1> (x, s, b, m, v)
    c, cm, cv = BatchNormalization <training_mode: int = 1> (a, s, b, m, v)
    d, dm, dv = BatchNormalization <training_mode: int = 1> (c, b, s, cm, v)
    e = Relu (c)
    y = Add (e, d)
    z = Identity (a)
}""")
    rewritten = onnx_cbp.rewrite(model, one_pass=False)
    assert op_types(rewritten).count("ChannelStats") == 3
    assert op_types(rewritten).count("RunningStats") == 6
    onnx.checker.check_model(rewritten, full_check=True)
    _assert_same_results(model, rewritten, "auto", tolerance=1e-5)


def test_subgraphs():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2] x, float[2] s, float[2] b, float[2] m, float[2] v, bool c) => (float[N, 2] y)
{
    y = If (c) <
        then_branch = g1 () => (float[N, 2] t) {
            t, tm, tv = BatchNormalization <training_mode: int = 1> (x, s, b, m, v) },
        else_branch = g2 () => (float[N, 2] e) { e = Neg (x) }
    >
}""")
    rewritten = onnx_cbp.rewrite(model)
    onnx.checker.check_model(rewritten, full_check=True)
    feeds = _feeds(model)
    for condition in (True, False):
        feeds["c"] = np.array(condition)
        want = session(model, None).run(None, feeds)[0]
        got = session(rewritten, "auto").run(None, feeds)[0]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
agraph (float[N, 2] x, float[2] s, float[2] b, float[2] m, float[2] v) => (float[N, 2] y)
{
    y = local.block (x, s, b, m, v)
}
<domain: "local", opset_import: ["" : 17]>
block (x, s, b, m, v) => (y)
{
    n, nm, nv = BatchNormalization <training_mode: int = 1> (x, s, b, m, v)
    y = Relu (n)
}"""


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("portable", [False, True])
def test_model_local_functions(kind, portable):
    # Inside a function no value has a type of its own; the statistics' type, which ChannelStats spells out, is that
    # of the callers' scale.
    model = parse(FUNCTION.replace("float[", f"{kind}["))
    rewritten = onnx_cbp.rewrite(model, portable=portable)
    onnx.checker.check_model(rewritten, full_check=True)
    feeds = {name: value.astype(kind.replace("float", "float32")) for name, value in _feeds(model).items()}
    want = session(model, None).run(None, feeds)[0]
    got = session(rewritten, None if portable else "auto").run(None, feeds)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


NESTED = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
agraph (float[N, 2] x, float[2] s, float[2] b, float[2] m, float[2] v) => (float[N, 2] y)
{
    y = local.outer (x, s, b, m, v)
}
<domain: "local", opset_import: ["" : 17, "local" : 1]>
outer (x, s, b, m, v) => (y)
{
    y0 = local.inner <mode = 1> (x, s, b, m, v)
    y1 = local.inner <mode = 1> (y0, s, b, m, v)
    y = Relu (y1)
}
<domain: "local", opset_import: ["" : 17]>
inner <mode> (x, s, b, m, v) => (y)
{
    y, nm, nv = BatchNormalization <training_mode: int = @mode> (x, s, b, m, v)
}"""


@pytest.mark.parametrize("one_pass", [True, False])
def test_functions_in_functions_that_give_the_training_mode(one_pass):
    model = parse(NESTED)
    assert [f.rewritten for f in onnx_cbp.inspect(model)] == [True, True]
    rewritten = onnx_cbp.rewrite(model, one_pass=one_pass)
    onnx.checker.check_model(rewritten, full_check=True)
    _assert_same_results(model, rewritten, "auto", tolerance=1e-5)


def test_a_function_that_is_called_with_several_types():
    model = parse(FUNCTION)
    call = model.graph.node[0]
    for name in list(call.input):
        cast = helper.make_node("Cast", [name], [f"{name}_d"], to=onnx.TensorProto.DOUBLE)
        model.graph.node.insert(0, cast)
    inputs = [f"{name}_d" for name in call.input]
    model.graph.node.append(helper.make_node("block", inputs, ["z"], domain="local"))
    model.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.DOUBLE, ["N", 2]))
    rewritten = onnx_cbp.rewrite(model)
    onnx.checker.check_model(rewritten, full_check=True)
    _assert_same_results(model, rewritten, "auto", tolerance=1e-5)


def test_functions_without_a_batch_norm_that_trains_stay():
    model = parse(FUNCTION.replace("training_mode: int = 1", "training_mode: int = 0").replace("n, nm, nv", "n"))
    assert onnx_cbp.rewrite(model) == model


def test_an_attribute_of_another_type_is_named():
    model = parse(FORWARD)
    (momentum,) = [a for a in model.graph.node[0].attribute if a.name == "momentum"]
    momentum.CopyFrom(helper.make_attribute("momentum", 1))
    (finding,) = onnx_cbp.inspect(model)
    assert "'momentum' has type INT, expected FLOAT" in finding.explanation


@pytest.mark.parametrize("text", [FORWARD, INFERENCE])
@pytest.mark.parametrize("dtype", [onnx.TensorProto.STRING, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT8E4M3FN])
def test_data_of_a_type_that_no_batch_norm_takes_is_left_alone(text, dtype):
    model = parse(text)
    model.graph.input[0].type.tensor_type.elem_type = dtype
    (finding,) = onnx_cbp.inspect(model)
    assert f"'{model.graph.input[0].name}' has type {onnx.TensorProto.DataType.Name(dtype)}" in finding.explanation
    assert onnx_cbp.rewrite(model) == model
    for verb in (lambda: onnx_cbp.rewrite(model, train="*"), lambda: onnx_cbp.finalize(model)):
        with pytest.raises(onnx_cbp.OnnxCbpError, match="use float, double, float16 or bfloat16"):
            verb()


def test_a_sparse_initializer_in_a_subgraph_is_not_lost():
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["t"])], "b", [], [])
    branch.output.append(helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [3]))
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "w_indices")
    branch.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    model = parse(FORWARD)
    model.graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    node = helper.make_node("If", ["c"], ["z"], name="choice", then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"'choice'.*sparse initializer 'w'"):
        onnx_cbp.rewrite(model)


def test_quantization_annotations_stay():
    model = parse(FORWARD)
    for name in ("x", "y"):
        annotation = model.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="gamma")
    kept = {a.tensor_name for a in onnx_cbp.rewrite(model).graph.quantization_annotation}
    assert kept == {"x", "y"}


def test_rewriting_in_many_threads():
    # In a process of its own: schemas are registered once a process.
    script = """
import threading, onnx_cbp
from support.models import FORWARD, parse
errors = []
def work():
    try:
        onnx_cbp.rewrite(parse(FORWARD))
    except Exception as error:
        errors.append(error)
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not errors, errors
"""
    tests = Path(__file__).parents[2]
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], cwd=tests, check=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (INFERENCE, "running statistics"),
        (FORWARD.replace("float[N, 3, H, W]", "float[3]"), "rank 2 or more"),
    ],
)
def test_what_cannot_be_rewritten_is_left_alone_and_named(text, reason, caplog):
    model = onnx.parser.parse_model(text)
    model.graph.node[0].name = "stubborn"
    with caplog.at_level(logging.INFO, "onnx_cbp"):
        rewritten = onnx_cbp.rewrite(model)
    assert rewritten == model
    assert rewritten is not model
    (finding,) = onnx_cbp.inspect(model)
    assert not finding.rewritten
    assert finding.node == "stubborn"
    assert reason in finding.explanation
    assert "stubborn" in caplog.text
    assert reason in caplog.text
    assert "nothing to rewrite" in caplog.text


def test_one_stubborn_batch_norm_does_not_stop_the_others():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2] x, float[2] s, float[2] b, float[2] m, float[2] v) => (float[N, 2] y)
{
    a, am, av = BatchNormalization <training_mode: int = 1> (x, s, b, m, v)
    y = BatchNormalization (a, s, b, m, v)
}""")
    rewritten = onnx_cbp.rewrite(model)
    assert op_types(rewritten) == ["BatchNormTrainUpdate", "BatchNormalization"]
    assert [f.rewritten for f in onnx_cbp.inspect(model)] == [True, False]
    _assert_same_results(model, rewritten, "auto", tolerance=1e-5)
