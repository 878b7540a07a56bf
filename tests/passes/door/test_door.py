"""Every model comes in through one door: what is valid passes and stays as it was, and what is not is one line."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from onnx_cbp.checking.graphs import GraphReader
from onnx_cbp.graph_passes.core.values.evaluation import size_of
from onnx_cbp.ir_models import to_ir, to_proto
from support.models import FORWARD, parse

C = 3
VECTORS = {"s": 1.5, "b": 0.1, "m": 0.2, "v": 2.0}
VERBS = {
    "inspect": onnx_cbp.inspect,
    "rewrite": onnx_cbp.rewrite,
    "finalize": onnx_cbp.finalize,
    "update_bn": lambda model: onnx_cbp.update_bn(model, [np.ones((2, C, 4), np.float32)]),
}


def value(name, shape=("N", C, 4), dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def vectors():
    return [numpy_helper.from_array(np.full(C, fill, np.float32), name) for name, fill in VECTORS.items()]


def batch_norm(X="x", Y="y", *more, **attributes):
    return helper.make_node("BatchNormalization", [X, *VECTORS], [Y, *more], name="bn", **attributes)


def model(nodes, *, opset=17, imports=(), functions=(), inputs=None, outputs=None, ir_version=8, initializers=None):
    graph = helper.make_graph(
        nodes, "g", inputs or [value("x")], outputs or [value("y")], vectors() if initializers is None else initializers
    )
    opsets = [helper.make_opsetid(*each) for each in (imports or (("", opset), ("local", 1)))]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    made.functions.extend(functions)
    return made


def function(name, nodes, opset=17, inputs=("fx", *VECTORS), outputs=("fy",)):
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, list(inputs), list(outputs), nodes, imports)


def run(made, x, **more):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    onnx_cbp.register(options)
    return ort.InferenceSession(made.SerializeToString(), options).run(None, {"x": x, **more})


def data(shape=(5, C, 4)):
    return np.random.default_rng(0).normal(0.5, 2, shape).astype(np.float32)


def refuse(made):
    """The one line that every verb says."""
    said = set()
    for verb in VERBS.values():
        before = time.monotonic()
        with pytest.raises(onnx_cbp.OnnxCbpError) as caught:
            verb(made)
        assert time.monotonic() - before < 10
        assert "\n" not in str(caught.value)
        said.add(str(caught.value))
    (line,) = said
    return line


# ONNX's domain has two names.


@pytest.mark.parametrize("imported", ["", "ai.onnx"])
@pytest.mark.parametrize("called", ["", "ai.onnx"])
@pytest.mark.parametrize("opset", [9, 13, 15, 17])
def test_both_spellings_of_the_domain_are_one_opset(imported, called, opset):
    node = batch_norm()
    node.domain = called
    made = model([node], imports=[(imported, opset)])
    (finding,) = onnx_cbp.inspect(made)
    assert finding.form == f"BatchNormalization-{opset} (inference form)"
    x = data()
    (want,) = run(model([batch_norm()], opset=opset), x)
    np.testing.assert_allclose(run(onnx_cbp.finalize(made), x)[0], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(onnx_cbp.rewrite(made), x)[0], want, rtol=1e-5, atol=1e-5)


def test_both_spellings_in_a_subgraph_and_in_a_function():
    inner = helper.make_node("BatchNormalization", ["fx", *VECTORS], ["fy"], domain="ai.onnx")
    called = helper.make_function("local", "F", ["fx", *VECTORS], ["fy"], [inner], [helper.make_opsetid("ai.onnx", 17)])
    branch = helper.make_graph([batch_norm(Y="t", domain="ai.onnx")], "t", [], [value("t")])
    nodes = [
        helper.make_node("F", ["x", *VECTORS], ["z"], domain="local"),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["z", "y"], ["sum"], domain="ai.onnx"),
    ]
    made = model(
        nodes,
        imports=[("ai.onnx", 17), ("local", 1)],
        functions=[called],
        inputs=[value("x"), value("c", [], TensorProto.BOOL)],
        outputs=[value("sum")],
    )
    forms = [finding.form for finding in onnx_cbp.inspect(made)]
    assert forms
    assert set(forms) == {"BatchNormalization-17 (inference form)"}
    x = data()
    (want,) = run(model([batch_norm()]), x)
    (got,) = run(onnx_cbp.finalize(made), x, c=np.array(True))
    np.testing.assert_allclose(got, 2 * want, rtol=1e-5, atol=1e-5)


def test_what_comes_back_imports_the_domain_once():
    made = model([batch_norm("x", "y", "p", "q", training_mode=1)], imports=[("ai.onnx", 17), ("", 17)])
    rewritten = onnx_cbp.rewrite(made)
    assert sorted(each.domain for each in rewritten.opset_import if each.domain in ("", "ai.onnx")) == [""]
    onnx.checker.check_model(rewritten, full_check=True)


@pytest.mark.parametrize(
    ("imports", "said"),
    [
        ([("com.microsoft", 1)], "does not import ONNX's opset"),
        ([("", 17), ("ai.onnx", 13)], "imports two opsets of 'ai.onnx', 17 and 13"),
        ([("", 9), ("", 17)], "imports two opsets of 'ai.onnx', 9 and 17"),
        ([("", 0)], "opset 0 of ONNX"),
        ([("", 2**63 - 1)], f"opset {2**63 - 1} of ONNX"),
    ],
)
def test_an_opset_that_says_nothing(imports, said):
    assert said in refuse(model([batch_norm()], imports=imports))


# The model that is given stays as it is.


CONSTANTS = """<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 3, 4] x) => (float[N, 3, 4] y) {
    a = Constant <value = int64[2] {0, 2}> ()
    m = ReduceMean (x, a)
    d = Sub (x, m)
    q = Mul (d, d)
    v = ReduceMean (q, a)
    e = Constant <value = float {0.001}> ()
    w = Add (v, e)
    s = Sqrt (w)
    y = Div (d, s)
}"""


def _given():
    yield "constants", onnx.parser.parse_model(CONSTANTS)
    yield "training form", parse(FORWARD)
    yield "inference form", model([batch_norm()])
    inner = helper.make_node("BatchNormalization", ["fx", *VECTORS], ["fy"])
    yield (
        "function",
        model([helper.make_node("F", ["x", *VECTORS], ["y"], domain="local")], functions=[function("F", [inner], 15)]),
    )
    yield "ai.onnx", model([batch_norm()], imports=[("ai.onnx", 17)])
    yield "unsorted", model([helper.make_node("Relu", ["t"], ["y"]), batch_norm("x", "t")])
    W = numpy_helper.from_array(np.ones((C, C, 1), np.float32), "W")
    nodes = [helper.make_node("Conv", ["x", "W"], ["c"]), batch_norm("c")]
    yield "convolution", model(nodes, initializers=[W, *vectors()])
    merged = [each for each in vectors() if each.name != "v"]
    nodes = [helper.make_node("Identity", ["s"], ["v"]), batch_norm()]
    yield "merged", model(nodes, initializers=merged)


@pytest.mark.parametrize("given", [each for _, each in _given()], ids=[form for form, _ in _given()])
@pytest.mark.parametrize("how", [*VERBS, "train", "steps", "portable"])
def test_no_verb_changes_the_model_it_is_given(given, how):
    verbs = VERBS | {
        "train": lambda made: onnx_cbp.rewrite(made, train="*"),
        "steps": lambda made: onnx_cbp.rewrite(made, one_pass=False),
        "portable": lambda made: onnx_cbp.rewrite(made, portable=True),
    }
    before = given.SerializeToString(deterministic=True)
    with contextlib.suppress(onnx_cbp.OnnxCbpError):  # there is nothing of the kind in it; that changes nothing either
        verbs[how](given)
    assert given.SerializeToString(deterministic=True) == before


# What is not valid.


def _cycles():
    yield [batch_norm("x", "y", "v", training_mode=1)], [each for each in vectors() if each.name != "v"]
    yield [helper.make_node("Add", ["y", "x"], ["t"]), batch_norm("t")], None
    yield [batch_norm("e"), helper.make_node("Add", ["x", "f"], ["e"]), helper.make_node("Relu", ["e"], ["f"])], None
    body = helper.make_graph([helper.make_node("Relu", ["y"], ["t"])], "b", [], [value("t")])
    choice = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    made = [helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [1]))]
    yield [*made, choice, batch_norm("z")], None


@pytest.mark.parametrize(("nodes", "initializers"), list(_cycles()))
def test_nodes_that_need_one_another(nodes, initializers):
    assert "a cycle" in refuse(model(nodes, initializers=initializers))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_functions_that_call_themselves(length):
    functions = [
        function(f"F{i}", [helper.make_node(f"F{(i + 1) % length}", ["fx", *VECTORS], ["fy"], domain="local")])
        for i in range(length)
    ]
    call = helper.make_node("F0", ["x", *VECTORS], ["y"], domain="local")
    assert "no function may call itself" in refuse(model([call], functions=functions))


def _tower(depth):
    functions = [function("F0", [helper.make_node("BatchNormalization", ["fx", *VECTORS], ["fy"])])]
    for level in range(1, depth + 1):
        names = (("fx", "t"), ("t", "fy"))
        nodes = [helper.make_node(f"F{level - 1}", [x, *VECTORS], [y], domain="local") for x, y in names]
        functions.append(function(f"F{level}", nodes))
    call = helper.make_node(f"F{depth}", ["x", *VECTORS], ["y"], domain="local")
    return model([call], functions=functions)


def test_a_tower_of_functions_is_inlined_as_fast_as_it_is_high():
    before = time.process_time()
    found = onnx_cbp.finalize(_tower(9))
    assert sum(node.op_type == "BatchNormalization" for node in found.graph.node) == 2**9
    assert len({node.name for node in found.graph.node}) == 2**9
    assert time.process_time() - before < 10


@pytest.mark.parametrize("depth", [14, 30, 62])
def test_a_tower_that_no_memory_holds(depth):
    assert "with all functions that it calls in their places" in refuse(_tower(depth))


def test_a_long_chain_and_deep_functions_end_in_no_recursion_error():
    nodes = [helper.make_node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(1500)]
    made = model([*nodes, batch_norm("v1500")])
    assert len(onnx_cbp.inspect(made)) == 1
    assert len(onnx_cbp.finalize(made).graph.node) == 1501
    functions = [function("F0", [helper.make_node("BatchNormalization", ["fx", *VECTORS], ["fy"])])]
    for level in range(1, 300):
        functions.append(
            function(f"F{level}", [helper.make_node(f"F{level - 1}", ["fx", *VECTORS], ["fy"], domain="local")])
        )
    call = helper.make_node("F299", ["x", *VECTORS], ["y"], domain="local")
    assert len(onnx_cbp.inspect(model([call], functions=functions))) == 1


def _bad_nodes():
    yield batch_norm("nowhere"), "reads 'nowhere', which nothing makes"
    yield helper.make_node("Relu", ["x", "x"], ["y"]), "has 2 inputs, and the op has 1"
    yield helper.make_node("Add", ["x"], ["y"]), "has 1 inputs, and the op has 2"
    yield helper.make_node("Add", ["x", ""], ["y"]), "has nothing for its input 1"
    yield helper.make_node("Constant", [], ["y"]), "has 0 attributes, and a Constant has one"
    yield helper.make_node("Cast", ["x"], ["y"]), "lacks the attribute 'to'"
    yield helper.make_node("Transpose", ["x"], ["y"], perm="021"), "attribute 'perm' of type STRING, expected INTS"
    yield (
        helper.make_node("Relu", ["x"], ["y"], slope=0.1),
        "has the attribute 'slope', which the op of its opset has not",
    )
    yield helper.make_node("LayerNormalization", ["x"], ["y"]), "has 1 inputs, and the op has 2 to 3"
    for mode in (-1, 2, 2**31 - 1):  # ONNX Runtime normalises by the running statistics
        norm = helper.make_node("BatchNormalization", ["x", *VECTORS], ["y"], training_mode=mode)
        yield norm, f"has training_mode {mode}: write 1 where it trains, and else 0"
    yield helper.make_node("Relu", ["x"], ["s"]), "makes 's', which an input or initializer is already"
    short = helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0])
    short.dims[0] = 7
    yield helper.make_node("Constant", [], ["y"], value=short), "has 1 values in float_data instead of 7"
    raw = helper.make_tensor("c", TensorProto.FLOAT, [1], b"\0\0\0\0", raw=True)
    raw.dims[0] = 2
    yield helper.make_node("Constant", [], ["y"], value=raw), "has 4 bytes of data instead of 8"
    reference = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 1, 2])
    reference.attribute[0].ref_attr_name = "p"
    yield reference, "from the caller of a function, and stands in none"
    ours = helper.make_node("DirectConv", ["x", "s"], ["y"], domain="onnx_cbp", strides=[1])
    yield ours, "lacks the attribute 'kernel_shape'"
    ours = helper.make_node("ChannelStats", ["x"], ["y", "p", "q"], domain="onnx_cbp", axis=1.0, stash_type=1)
    yield ours, "attribute 'axis' of type FLOAT, expected INT"
    ours = helper.make_node("ChannelNormalize", ["x", "s"], ["y"], domain="onnx_cbp", axis=1, epsilon=0.0)
    yield ours, "has 2 inputs, and the op has 5"
    theirs = helper.make_node("BatchNormalizationGrad", ["x", "x"], ["y"], domain="com.microsoft")
    yield theirs, "has 2 inputs, and the op has 5"
    theirs = helper.make_node("SoftmaxCrossEntropyLossGrad", ["", "x", "x"], ["y"], domain="com.microsoft")
    yield theirs, "SoftmaxCrossEntropyLossGrad) has nothing for its input 0"


@pytest.mark.parametrize(("node", "said"), list(_bad_nodes()), ids=[said for _, said in _bad_nodes()])
def test_a_node_that_is_none_of_its_op(node, said):
    made = model([node], imports=[("", 17), ("onnx_cbp", 1), ("com.microsoft", 1)])
    assert said in refuse(made)


def test_a_layer_normalization_before_onnx_had_it():
    """ONNX Runtime runs it in older opsets too, so finalize reads it there."""
    made = model([helper.make_node("LayerNormalization", ["x"], ["y"])], opset=13)
    assert "has 1 inputs, and the op has 2 to 3" in refuse(made)


@pytest.mark.parametrize(
    ("opset", "node", "said"),
    [
        (13, helper.make_node("CastLike", ["x"], ["y"]), "has 1 inputs, and the op has 2"),
        (10, helper.make_node("SplitToSequence", ["x"], ["y", "z"]), "has 2 outputs, and the op has 1"),
        (8, helper.make_node("ConstantOfShape", [""], ["y"]), "has nothing for its input 0"),
        (17, helper.make_node("Scatter", ["x"], ["y"]), "has 1 inputs, and the op has 3"),
        (17, helper.make_node("Upsample", ["x", "x", "x"], ["y"]), "has 3 inputs, and the op has 2"),
        (5, batch_norm(consumed_inputs=1, is_test=1), "attribute 'consumed_inputs' of type INT, expected INTS"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_node_of_another_opset_is_read_by_its_name_and_is_to_fit_it(opset, node, said):
    """CastLike and others came later, Scatter and Upsample are gone."""
    assert said in refuse(model([node], opset=opset))


def test_an_op_of_another_opset_may_have_attributes_of_its_own():
    """ONNX Runtime has MeanVarianceNormalization before ONNX has it."""
    made = model([helper.make_node("MeanVarianceNormalization", ["x"], ["y"], across_channels=1)], opset=8)
    assert onnx_cbp.inspect(made) == []


def test_a_call_that_a_function_does_not_take():
    called = function("F", [helper.make_node("BatchNormalization", ["fx", *VECTORS], ["fy"])])
    many = helper.make_node("F", ["x", *VECTORS, "x"], ["y"], domain="local")
    assert "has 6 inputs, and the function that it calls has 5" in refuse(model([many], functions=[called]))
    two = helper.make_node("F", ["x", *VECTORS], ["y", "z"], domain="local")
    assert "has 2 outputs, and the function that it calls has 1" in refuse(model([two], functions=[called]))


def test_a_call_that_leaves_results_out_is_inlined():
    """What no onnx-ir inliner takes: fewer outputs than the function has."""
    nodes = [
        helper.make_node("BatchNormalization", ["fx", *VECTORS], ["fy", "p", "q"], training_mode=1),
        helper.make_node("Neg", ["fy"], ["n"]),
    ]
    called = function("F", nodes, outputs=("fy", "n"))
    made = model([helper.make_node("F", ["x", *VECTORS], ["y"], domain="local")], functions=[called])
    x = data()
    want = (x - x.mean((0, 2), keepdims=True)) / np.sqrt(x.var((0, 2), keepdims=True) + 1e-5) * 1.5 + 0.1
    np.testing.assert_allclose(run(onnx_cbp.rewrite(made), x)[0], want, rtol=1e-4, atol=1e-4)


# Functions of another opset.


@pytest.mark.parametrize(("inner", "outer"), [(9, 17), (13, 17), (15, 17), (17, 13), (17, 15), (14, 21), (8, 13)])
def test_a_function_of_another_opset_is_read_as_one_of_the_model(inner, outer):
    if outer > onnx.defs.onnx_opset_version():
        pytest.skip(f"this onnx does not know opset {outer}")
    if outer > 20 and ort.__version__.startswith("1.17."):
        pytest.skip(f"onnxruntime {ort.__version__} does not know opset {outer}")
    nodes = [
        helper.make_node("BatchNormalization", ["fx", *VECTORS], ["t"]),
        helper.make_node("Relu", ["t"], ["fy"]),
    ]
    called = function("F", nodes, inner)
    call = helper.make_node("F", ["x", *VECTORS], ["y"], domain="local")
    made = model([call], opset=outer, functions=[called])
    x = data()
    (want,) = run(made, x)
    assert [finding.form for finding in onnx_cbp.inspect(model([batch_norm()], opset=outer))]
    np.testing.assert_allclose(run(onnx_cbp.finalize(made), x)[0], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(onnx_cbp.rewrite(made), x)[0], want, rtol=1e-5, atol=1e-5)
    assert VERBS["update_bn"](made).graph.node


def test_a_function_without_a_batch_norm_hinders_nobody():
    """Softmax of opset 11 flattens: it cannot be one of opset 17."""
    called = function("Scores", [helper.make_node("Softmax", ["fx"], ["fy"])], 11, inputs=("fx",))
    nodes = [batch_norm("x", "t"), helper.make_node("Scores", ["t"], ["y"], domain="local")]
    made = model(nodes, functions=[called])
    x = data()
    (want,) = run(made, x)
    np.testing.assert_allclose(run(onnx_cbp.finalize(made), x)[0], want, rtol=1e-5, atol=1e-5)
    for verb in VERBS.values():
        verb(made)


def test_a_function_that_means_something_else_in_the_opset_of_the_model():
    nodes = [
        helper.make_node("BatchNormalization", ["fx", *VECTORS], ["t", "p", "q"], training_mode=1),
        helper.make_node("Softmax", ["t"], ["fy"]),
    ]
    nodes[0].ClearField("attribute")
    nodes[0].output.extend(["r", "u"])
    made = model([helper.make_node("F", ["x", *VECTORS], ["y"], domain="local")], functions=[function("F", nodes, 11)])
    line = refuse(made)
    assert "the function 'local::F' cannot be inlined" in line
    assert "opset 11" in line


# Old and odd models that are valid.


@pytest.mark.parametrize(("opset", "shape"), [(7, (5, C)), (9, (5, C, 4)), (9, (5, C, 4, 2)), (8, (5, C, 2, 2, 2))])
def test_update_bn_of_ir_version_3_whose_initializers_are_inputs(opset, shape):
    known = [value(name, [C]) for name in VECTORS]
    made = model(
        [batch_norm()],
        opset=opset,
        ir_version=3,
        inputs=[value("x", shape), *known],
        outputs=[value("y", shape)],
    )
    onnx.checker.check_model(made, full_check=True)
    x = data(shape)
    updated = onnx_cbp.update_bn(made, [x], unbiased_running_var=False)
    onnx.checker.check_model(updated, full_check=True)
    new = {tensor.name: numpy_helper.to_array(tensor) for tensor in updated.graph.initializer}
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)
    np.testing.assert_allclose(new["m"], x.mean(axes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["v"], x.var(axes), rtol=1e-5, atol=1e-6)
    assert len(updated.graph.input) == 5


@pytest.mark.parametrize("known", ["input", "output", "neither"])
@pytest.mark.parametrize("linear", [False, True])
def test_inputs_and_outputs_of_unknown_rank(known, linear):
    shapes = [("N", C, 4) if known == which else None for which in ("input", "output")]
    nodes = [batch_norm()] if not linear else [helper.make_node("Conv", ["x", "W"], ["c"]), batch_norm("c")]
    W = numpy_helper.from_array(np.random.default_rng(1).normal(size=(C, C, 1)).astype(np.float32), "W")
    made = model(nodes, inputs=[value("x", shapes[0])], outputs=[value("y", shapes[1])], initializers=[W, *vectors()])
    x = data()
    (want,) = run(made, x)
    np.testing.assert_allclose(run(onnx_cbp.finalize(made), x)[0], want, rtol=1e-5, atol=1e-5)
    for verb in VERBS.values():
        verb(made)


@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("shape", [("N", C), (4, C), None])
def test_spatial_means_nothing_where_there_is_no_space(opset, shape):
    made = model(
        [batch_norm(spatial=0)], opset=opset, inputs=[value("x", shape)], outputs=[value("y", shape)], ir_version=4
    )
    x = data((4, C))
    (want,) = run(made, x)
    np.testing.assert_allclose(run(onnx_cbp.finalize(made), x)[0], want, rtol=1e-5, atol=1e-5)
    updated = onnx_cbp.update_bn(made, [x], unbiased_running_var=False)
    new = {tensor.name: numpy_helper.to_array(tensor) for tensor in updated.graph.initializer}
    np.testing.assert_allclose(new["v"], x.var(0), rtol=1e-5)


def test_spatial_is_refused_where_there_is_space():
    wide = [numpy_helper.from_array(np.ones((C, 4), np.float32), name) for name in VECTORS]
    made = model([batch_norm(spatial=0)], opset=8, ir_version=4, initializers=wide)
    (finding,) = onnx_cbp.inspect(made)
    assert "spatial = 0" in finding.explanation


# Nothing is computed that is not small.


def _constants(shape, op_type="ConstantOfShape"):
    nodes = [
        batch_norm("x", "t"),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(shape, np.int64))),
    ]
    if op_type == "ConstantOfShape":
        nodes.append(helper.make_node("ConstantOfShape", ["c"], ["big"]))
    elif op_type == "Expand":
        nodes.append(helper.make_node("Constant", [], ["one"], value_float=1.0))
        nodes.append(helper.make_node("Expand", ["one", "c"], ["big"]))
    elif op_type == "Add":
        for name, dims in (("row", [1, shape[1]]), ("column", [shape[0], 1])):
            size = numpy_helper.from_array(np.array(dims, np.int64))
            nodes.append(helper.make_node("Constant", [], [f"{name}_shape"], value=size))
            nodes.append(helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]))
        nodes.append(helper.make_node("Add", ["row", "column"], ["big"]))
    elif op_type == "Gather":
        nodes.append(helper.make_node("ConstantOfShape", ["c"], ["few"], value=helper.make_tensor("", 7, [1], [0])))
        nodes.append(helper.make_node("Gather", ["few", "few"], ["floats"]))
        nodes.append(helper.make_node("Cast", ["floats"], ["big"], to=TensorProto.FLOAT))
    nodes += [helper.make_node("ReduceMean", ["big"], ["r"], keepdims=0), helper.make_node("Add", ["t", "r"], ["y"])]
    return model(nodes)


@pytest.mark.parametrize(
    ("shape", "op_type"),
    [
        ([65536, 65536], "ConstantOfShape"),
        ([2**31, 2**31], "ConstantOfShape"),
        ([60000, 60000], "Expand"),
        ([40000, 40000], "Add"),
        ([200, 200], "Gather"),
    ],
)
def test_a_constant_that_no_memory_holds_stays_computed(shape, op_type):
    before = time.process_time()
    finalized = onnx_cbp.finalize(_constants(shape, op_type))
    assert finalized.ByteSize() < 1_000_000  # what it is made of may be in it
    assert any(node.op_type == op_type for node in finalized.graph.node)
    assert time.process_time() - before < 5


def test_a_constant_of_no_shape_is_not_computed():
    with contextlib.suppress(onnx_cbp.OnnxCbpError):  # newer versions of onnx's checker say so
        assert any(node.op_type == "ConstantOfShape" for node in onnx_cbp.finalize(_constants([-1])).graph.node)


def test_a_text_that_is_no_text_is_left_alone():
    text = helper.make_tensor("c", TensorProto.STRING, [1], [b"\xff\xfe"])
    made = model([batch_norm(), helper.make_node("Constant", [], ["c"], value=text)])
    onnx_cbp.finalize(made)


# Statistics that leave a subgraph.


def _branches(kind):
    shape, vector = value("t"), [value(f"t{i}", [C]) for i in (1, 2)]
    nodes = [batch_norm("x", "t", "t1", "t2", training_mode=1)]
    if kind == "If":
        body = helper.make_graph(nodes, "t", [], [shape, *vector])
        other = helper.make_graph(
            [helper.make_node("Identity", [a], [b]) for a, b in (("x", "e"), ("m", "e1"), ("v", "e2"))],
            "e",
            [],
            [value("e"), value("e1", [C]), value("e2", [C])],
        )
        return helper.make_node("If", ["c"], ["y", "rm", "rv"], then_branch=body, else_branch=other)
    if kind == "Loop":
        nodes[0].input[3:5] = ["sm", "sv"]
        nodes.append(helper.make_node("Identity", ["k"], ["go"]))
        body = helper.make_graph(
            nodes,
            "body",
            [value("i", [], TensorProto.INT64), value("k", [], TensorProto.BOOL), value("sm", [C]), value("sv", [C])],
            [value("go", [], TensorProto.BOOL), *vector, shape],
        )
        return helper.make_node("Loop", ["once", "c", "m", "v"], ["rm", "rv", "ys"], body=body)
    nodes[0].input[0], nodes[0].input[3:5] = "part", ["sm", "sv"]
    body = helper.make_graph(nodes, "body", [value("sm", [C]), value("sv", [C]), value("part")], [*vector, shape])
    return helper.make_node("Scan", ["m", "v", "xs"], ["rm", "rv", "ys"], body=body, num_scan_inputs=1)


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan"])
@pytest.mark.parametrize("rewritten", [False, True])
def test_updated_statistics_leave_a_subgraph(kind, rewritten):
    once = numpy_helper.from_array(np.array(1, np.int64), "once")
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    nodes = [_branches(kind)]
    if kind == "Scan":
        nodes.insert(0, helper.make_node("Unsqueeze", ["x", "axes"], ["xs"]))
    if kind != "If":
        nodes.append(helper.make_node("Squeeze", ["ys", "axes"], ["y"]))
    made = model(
        nodes,
        inputs=[value("x"), value("c", [], TensorProto.BOOL)],
        outputs=[value("y"), value("rm", [C]), value("rv", [C])],
        initializers=[*vectors(), once, axes],
    )
    x, c = data(), np.array(True)
    trained = run(made, x, c=c) if kind != "Scan" else None
    if rewritten:
        made = onnx_cbp.rewrite(made)
        if trained is not None:
            for got, want in zip(run(made, x, c=c), trained, strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    finalized = onnx_cbp.finalize(made, outputs="y")
    feeds = {"c": c} if any(each.name == "c" for each in finalized.graph.input) else {}
    (want,) = run(model([batch_norm()]), x)
    np.testing.assert_allclose(run(finalized, x, **feeds)[0], want, rtol=1e-5, atol=1e-5)


def _files():
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    return [
        *Path(__file__).parents[3].glob("models/*/*.onnx"),
        *data.glob("light/*.onnx"),
        *data.glob("simple/*/*.onnx"),
    ]


@pytest.mark.parametrize("file", _files(), ids=lambda file: f"{file.parent.name}-{file.name}")
def test_models_that_are_valid_pass_in_no_time(file):
    made = onnx.load(file)
    before, started = made.SerializeToString(deterministic=True), time.process_time()
    there = to_ir(made)
    assert time.process_time() - started < 2
    back = to_proto(there, made)
    assert made.SerializeToString(deterministic=True) == before
    assert [node.output for node in back.graph.node] == [node.output for node in made.graph.node]


@pytest.mark.parametrize("initializer", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_an_input_that_is_an_output_too_is_what_is_said_of_the_input(inside, initializer):
    """ONNX Runtime goes by the input, and refuses another shape of what has its own."""
    given, said = value("s", (C,)), value("s", (2, 2, 4))
    made = model([batch_norm()], inputs=[value("x"), given], outputs=[value("y"), said])
    if not initializer:
        made = model([batch_norm()], inputs=[value("x"), given], outputs=[value("y"), said], initializers=vectors()[1:])
    if inside:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["k"], ["z"])],
            "body",
            [value("i", (), TensorProto.INT64), value("go", (), TensorProto.BOOL), value("k", ("N", C, 4))],
            [value("on", (), TensorProto.BOOL), value("k", (7,)), value("z", ("N", C, 4))],
        )
        trips = numpy_helper.from_array(np.array(2), "trips")
        loop = helper.make_node("Loop", ["trips", "", "y"], ["last", "every"], body=body)
        made = model([batch_norm(), loop], initializers=[*vectors(), trips])
    before = made.SerializeToString(deterministic=True)
    graph = onnx_cbp.rewrite(made, train="*").graph
    assert made.SerializeToString(deterministic=True) == before
    if inside:
        (kept,) = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
        shapes = [each.type.tensor_type.shape for each in (kept.input[2], kept.output[1])]
        assert [len(shape.dim) for shape in shapes] == [3, 3]
    else:
        shapes = [each.type.tensor_type.shape for each in (graph.input[1], graph.output[1])]
        assert [[dim.dim_value for dim in shape.dim] for shape in shapes] == [[C], [C]]


@pytest.mark.parametrize("domain", ["nowhere", "com.microsoft", "onnx_cbp", ""])
@pytest.mark.parametrize("kind", onnx.AttributeProto.AttributeType.values())
def test_an_attribute_without_the_value_that_its_type_says(kind, domain):
    for op_type in ("Relu", "Constant", "BatchNormalization", "Some"):
        nodes = [helper.make_node(op_type, ["x"], ["h"], domain=domain), batch_norm("h")]
        nodes[0].attribute.add(name="value", type=kind)
        made = model(nodes, imports=[("", 17), *([(domain, 1)] if domain else [])])
        for verb, call in VERBS.items():
            if verb != "update_bn":  # what ONNX Runtime says of it
                with contextlib.suppress(onnx_cbp.OnnxCbpError):
                    call(made)


def test_a_graph_that_a_function_takes_from_its_caller():
    node = helper.make_node("Some", ["a"], ["b"], domain="other")
    node.attribute.add(name="body", type=onnx.AttributeProto.GRAPH, ref_attr_name="body")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    made = model(
        [helper.make_node("F", ["x"], ["h"], domain="local"), batch_norm("h", epsilon=1e-3)],
        imports=[("", 17), ("local", 1)],
    )
    made.functions.append(helper.make_function("local", "F", ["a"], ["b"], [node], imports))
    for call in VERBS.values():
        with pytest.raises(onnx_cbp.OnnxCbpError, match=r"^[^\n]*takes the graph 'body' from the caller[^\n]*$"):
            call(made)


@pytest.mark.parametrize("place", ["function", "node", "result", "domain", "attribute", "initializer"])
def test_names_that_are_no_text(place):
    made = model(
        [helper.make_node("F", ["x"], ["h"], name="a_node", domain="local"), batch_norm("h", epsilon=1e-3)],
        functions=[function("F", [helper.make_node("Neg", ["fx"], ["fy"])], inputs=("fx",))],
    )
    old = {
        "function": "F",
        "node": "a_node",
        "result": "h",
        "domain": "local",
        "attribute": "epsilon",
        "initializer": "s",
    }
    text = old[place].encode()
    broken = made.SerializeToString().replace(bytes([len(text)]) + text, bytes([len(text)]) + text[:-1] + b"\x80")
    for verb, call in VERBS.items():
        with pytest.raises(onnx_cbp.OnnxCbpError, match=r"not valid ONNX") as error:
            call(onnx.ModelProto.FromString(broken))
        assert "\n" not in str(error.value), verb


def test_long_vectors_are_not_gone_through_number_by_number():
    """Inference would: onnx follows the numbers that a Range or Concats of Concats make, 2^31 of them if need be."""
    doubled = [helper.make_node("Concat", [f"c{n}"] * 2, [f"c{n + 1}"], axis=0) for n in range(31)]
    numbers = {"c0": [1], "a": 0, "e": 2**31 - 1, "d": 1}
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    for made, last in ((doubled, "c31"), ([helper.make_node("Range", ["a", "e", "d"], ["r"])], "r")):
        nodes = [
            *made,
            helper.make_node("Cast", [last], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["floats"], ["most"], keepdims=0),
            batch_norm("x", "n", "m2", "v2", training_mode=1),
            helper.make_node("Mul", ["n", "most"], ["y"]),
        ]
        long = model(nodes, initializers=[*vectors(), *constants])
        started = time.process_time()
        for verb in (onnx_cbp.inspect, onnx_cbp.rewrite, onnx_cbp.finalize):
            verb(long)
        assert time.process_time() - started < 5


def test_long_vectors_that_are_given_are_not_gone_through_either():
    """A weight, for inference without its numbers, is a list of as many unknown ones: 70 bytes each, here 19 GB."""
    nodes = [
        helper.make_node("Slice", ["w", "zero", "one"], ["first"]),
        helper.make_node("Add", ["x", "first"], ["z"]),
        batch_norm("z", "n", "m2", "v2", training_mode=1),
        helper.make_node("Shape", ["n"], ["sizes"]),
        helper.make_node("Reshape", ["n", "sizes"], ["reshaped"]),
        helper.make_node("Add", ["reshaped", "first"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array([n]), name) for n, name in enumerate(("zero", "one"))]
    long = model(nodes, inputs=[value("x"), value("w", (2**28,))], initializers=[*vectors(), *constants])
    started = time.process_time()
    for verb in (onnx_cbp.inspect, onnx_cbp.rewrite, onnx_cbp.finalize):
        verb(long)
    assert GraphReader(long).shape("reshaped") == GraphReader(long).shape("x")
    assert time.process_time() - started < 5


@pytest.mark.parametrize("wrong", [value("y", (2, C, 1, 1)), value("y", ("N", C, 4), TensorProto.DOUBLE)])
def test_what_is_declared_twice_is_what_is_said_first(wrong):
    """ONNX Runtime goes by the first of two declarations of an output, and onnx-ir by the last."""
    given = model([batch_norm("x", "y", "m2", "v2", training_mode=1)], outputs=[value("y"), wrong])
    x = np.random.default_rng(0).normal(size=(2, C, 4)).astype(np.float32)
    for want, got in zip(run(given, x), run(onnx_cbp.rewrite(given), x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        assert got.dtype == want.dtype
    nodes = [batch_norm("x", "y", "m2", "v2", training_mode=1)]
    branch = helper.make_graph(nodes, "branch", [], [value("y"), wrong])
    chosen = helper.make_node("If", ["yes"], ["r1", "r2"], then_branch=branch, else_branch=branch)
    yes = numpy_helper.from_array(np.array(True), "yes")
    given = model([chosen], outputs=[value("r1"), value("r2")], initializers=[*vectors(), yes])
    for attribute in onnx_cbp.rewrite(given).graph.node[0].attribute:
        assert [output.type for output in attribute.g.output] == [value("y").type] * 2


def test_a_tile_costs_what_it_makes_on_the_way():
    """One axis after the other; that the last leaves nothing comes too late."""
    tile = helper.make_node("Tile", ["x", "repeats"], ["y"])
    assert size_of(tile, [np.ones((1, 1, 1)), np.array([2**31 - 1, 2, 0])]) == 2 * (2**31 - 1)
    assert size_of(tile, [np.ones((2, 3)), np.array([2, 1])]) == 12
