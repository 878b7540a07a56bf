"""Finalizing what has subgraphs, sequences and copies: judged by what ONNX Runtime computes of the original."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.core.types import Types
from support.made_up.control_flow import RandomModel
from support.models import op_types, parse
from support.ops import session
from support.running import assert_same_results

X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
ROWS = np.arange(10, dtype=np.float32).reshape(5, 2)

#: Models in which an Identity makes a value an output that could not be one otherwise: name, text, inputs.
COPIES = {
    "branch that hands on a value": (
        """agraph (float[N, 4] x, bool c) => (float[N, 4] y) { h = Relu (x)
    y = If (c) <then_branch = t () => (float[N, 4] a) { a = Identity (h) },
                else_branch = e () => (float[N, 4] b) { b = Neg (h) }> }""",
        {"x": X, "c": np.array(True)},
    ),
    "branch that hands on an output": (
        """agraph (float[N, 4] x, bool c) => (float[N, 4] h, float[N, 4] y) { h = Relu (x)
    y = If (c) <then_branch = t () => (float[N, 4] a) { a = Identity (h) },
                else_branch = e () => (float[N, 4] b) { b = Neg (h) }> }""",
        {"x": X, "c": np.array(True)},
    ),
    "branch that hands on one value twice": (
        """agraph (float[N, 4] x, bool c) => (float[N, 4] y, float[N, 4] z) {
    y, z = If (c) <then_branch = t () => (float[N, 4] a, float[N, 4] b) { a = Relu (x) b = Identity (a) },
                   else_branch = e () => (float[N, 4] d, float[N, 4] f) { d = Identity (x) f = Identity (x) }> }""",
        {"x": X, "c": np.array(True)},
    ),
    "branch in a branch": (
        """agraph (float[N, 4] x, bool c) => (float[N, 4] y) { h = Relu (x)
    y = If (c) <then_branch = t () => (float[N, 4] a) {
            a = If (c) <then_branch = tt () => (float[N, 4] p) { o = Identity (h) p = Identity (o) },
                        else_branch = te () => (float[N, 4] q) { q = Neg (h) }> },
                else_branch = e () => (float[N, 4] b) { b = Identity (x) }> }""",
        {"x": X, "c": np.array(True)},
    ),
    "state of a Scan that is scanned too": (
        """agraph (float[2] s0, float[5, 2] x) => (float[2] last, float[5, 2] all) {
    last, all = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] e) => (float[2] n, float[2] o)
        { n = Add (s, e) o = Identity (n) }> (s0, x) }""",
        {"s0": np.ones(2, np.float32), "x": ROWS},
    ),
    "Scan with two scanned outputs": (
        """agraph (float[2] s0, float[5, 2] x) => (float[2] last, float[5, 2] all, float[5, 2] more) {
    last, all, more = Scan <num_scan_inputs = 1,
        body = b (float[2] s, float[2] e) => (float[2] n, float[2] o, float[2] p)
        { m = Add (s, e) n = Identity (m) o = Identity (n) p = Identity (e) }> (s0, x) }""",
        {"s0": np.ones(2, np.float32), "x": ROWS},
    ),
    "Loop whose state stays as it is": (
        """agraph (float[2] s0, float[2] t0) => (float[2] last, float[2] kept, float[3, 2] all)
<int64 trips = {3}, float two = {2.0}> {
    last, kept, all = Loop (trips, , s0, t0)
        <body = b (int64 i, bool c, float[2] s, float[2] t) => (bool c2, float[2] n, float[2] u, float[2] o)
        { c2 = Identity (c) n = Mul (s, two) u = Identity (t) o = Identity (n) }> }""",
        {"s0": np.ones(2, np.float32), "t0": np.full(2, 7, np.float32)},
    ),
    "one value under two names": (
        "agraph (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { y = Relu (x) z = Identity (y) }",
        {"x": X},
    ),
    "one value under one name, twice": (
        "agraph (float[N, 4] x) => (float[N, 4] y, float[N, 4] y) { y = Relu (x) }",
        {"x": X},
    ),
    "an input": (
        "agraph (float[N, 4] x) => (float[N, 4] x, float[N, 4] u) { u = Identity (x) }",
        {"x": X},
    ),
    "a constant": (
        "agraph (float[N, 4] x) => (float[4] w, float[4] u) <float[4] w = {1, 2, 3, 4}> { u = Identity (w) }",
        {"x": X},
    ),
    "transposes of an output": (
        """agraph (float[N, 4] x) => (float[N, 4] h, float[N, 4] y) { h = Relu (x)
    t = Transpose <perm = [1, 0]> (h) y = Transpose <perm = [1, 0]> (t) }""",
        {"x": X},
    ),
    "transposes of an outer value": (
        """agraph (float[N, 4] x, bool c) => (float[N, 4] y) { h = Relu (x)
    y = If (c) <then_branch = t () => (float[N, 4] a)
            { u = Transpose <perm = [1, 0]> (h) a = Transpose <perm = [1, 0]> (u) },
                else_branch = e () => (float[N, 4] b) { b = Neg (h) }> }""",
        {"x": X, "c": np.array(True)},
    ),
    "input that only unused nodes read": (
        """agraph (float[N, 4] x, float[N, 4] z, bool c) => (float[N, 4] y) { u = Neg (z)
    y = If (c) <then_branch = t () => (float[N, 4] a) { v = Neg (z) a = Identity (x) },
                else_branch = e () => (float[N, 4] b) { b = Neg (x) }> }""",
        {"x": X, "z": X, "c": np.array(True)},
    ),
    "flag as the first output": (
        "agraph (float[N, 4] x, bool c) => (bool d, float[N, 4] y) { d = Not (c) y = Relu (x) }",
        {"x": X, "c": np.array(True)},
    ),
}


def _opset(text: str, opset: int) -> onnx.ModelProto:
    return parse(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')


@pytest.mark.parametrize("opset", [13, 16, 17])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_stays_where_it_makes_an_output(name, opset):
    text, feeds = COPIES[name]
    model = _opset(text, opset)
    final = onnx_cbp.finalize(model)
    assert list(final.graph.input) == list(model.graph.input)
    assert_same_results(final, model, feeds)


@pytest.mark.parametrize("trains", [0, 1])
@pytest.mark.parametrize("opset", [13, 17])
def test_the_mask_of_a_dropout_lets_everything_through(opset, trains):
    text = """agraph (float[N, 4] x) => (float[N, 4] y, bool[N, 4] mask, float[N, 4] z)
<float ratio = {0.5}, bool trains = {TRAINS}> {
    y, mask = Dropout (x, ratio, trains)
    number = Cast <to = 1> (mask)
    z = Mul (x, number)
}"""
    final = onnx_cbp.finalize(_opset(text.replace("TRAINS", str(trains)), opset))
    y, mask, z = session(final, None).run(None, {"x": X})
    assert mask.all()
    np.testing.assert_array_equal(y, X)
    np.testing.assert_array_equal(z, X)


def test_a_copy_goes_where_nothing_needs_it():
    model = _opset("agraph (float[N, 4] x) => (float[N, 4] y) { a = Relu (x) b = Identity (a) y = Identity (b) }", 17)
    final = onnx_cbp.finalize(model)
    assert op_types(final) == ["Relu"]
    assert_same_results(final, model, {"x": X})


def test_functions_that_nothing_calls_go():
    final = onnx_cbp.finalize(RandomModel(0).model)
    assert not final.functions


@pytest.mark.parametrize("block", range(4))
def test_random_models(block):
    for seed in range(20 * block, 20 * block + 20):
        drawn = RandomModel(seed, opset=(16, 17, 18, 20)[block])
        final = onnx_cbp.finalize(drawn.model)
        assert list(final.graph.input) == list(drawn.model.graph.input), f"seed {seed}"
        try:
            assert_same_results(final, drawn.model, drawn.feeds)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


#: What a sequence or an optional is made by, and how an element is had again.
HELD = {
    "SequenceConstruct": (
        "seq(float[2, 3])",
        "q = SequenceConstruct (x, x) o = SequenceAt (q, i)",
    ),
    "SplitToSequence": (
        "seq(float[M, 3])",
        "q = SplitToSequence <axis = 0> (x, sizes) o = SequenceAt (q, i)",
    ),
    "SequenceEmpty": (
        "seq(float[2, 3])",
        "e = SequenceEmpty <dtype = 1> () p = SequenceInsert (e, x) q = SequenceInsert (p, x) o = SequenceAt (q, i)",
    ),
    "Optional": (
        "optional(float[2, 3])",
        "q = Optional (x) o = OptionalGetElement (q)",
    ),
    "Optional of a sequence": (
        "optional(seq(float[2, 3]))",
        "e = SequenceConstruct (x, x) q = Optional (e) p = OptionalGetElement (q) o = SequenceAt (p, i)",
    ),
    "copy of a sequence": (
        "seq(float[2, 3])",
        "e = SequenceConstruct (x, x) q = Identity (e) o = SequenceAt (q, i)",
    ),
}


def _held(name: str, *, output: bool) -> onnx.ModelProto:
    """A batch norm behind an element; the sequence is an output as well, or nothing says what it is."""
    kind, body = HELD[name]
    more = f", {kind} q" if output else ""
    return parse(f"""<ir_version: 8, opset_import: ["" : 17]>
agraph (float[2, 3] x) => (float[M, 3] y{more})
<float[3] s = {{1.5, 0.5, -2.0}}, float[3] b = {{0.5, 0.0, 1.0}}, float[3] m = {{1.0, -2.0, 0.25}},
 float[3] v = {{0.5, 4.0, 1.0}}, int64[2] sizes = {{1, 1}}, int64 i = {{1}}>
{{ {body} y = BatchNormalization (o, s, b, m, v) }}""")


@pytest.mark.parametrize("output", [False, True], ids=["inside", "as an output"])
@pytest.mark.parametrize("name", HELD)
def test_sequences_and_optionals_keep_their_types(name, output):
    model = _held(name, output=output)
    final = onnx_cbp.finalize(model)
    onnx.checker.check_model(final, full_check=True)
    assert_same_results(final, model, {"x": X[:, :3]})


@pytest.mark.parametrize("name", HELD)
def test_inference_takes_no_sequence_for_its_elements(name):
    model = ir.from_proto(_held(name, output=False))
    types = Types(model)
    (value,) = (v for node in model.graph for v in node.outputs if v.name == "q")
    assert value.type is None
    assert types.of(value) is None  # no tensor
    assert types.shape(value) is None
    infer_shapes(model)
    assert isinstance(value.type, ir.SequenceType | ir.OptionalType)
    assert types.of(value) is None
    assert types.shape(value) is None


def test_branches_that_name_their_values_alike_are_inferred_apart():
    model = ir.from_proto(
        parse("""<ir_version: 8, opset_import: ["" : 17]>
agraph (float[2, 3] x, bool c) => (float[N, 3] y) <int64[2] turned = {3, 2}, int64 i = {0}> {
    y = If (c) <then_branch = t () => (float[N, 3] a) { h = Neg (x) a = Relu (h) },
                else_branch = e () => (float[N, 3] b) { h = SequenceConstruct (x, x) b = SequenceAt (h, i) }> }""")
    )
    infer_shapes(model)
    branches = [attribute.as_graph() for attribute in next(iter(model.graph)).attributes.values()]
    types = {graph.name: next(iter(graph)).outputs[0].type for graph in branches}
    assert isinstance(types["t"], ir.TensorType)
    assert isinstance(types["e"], ir.SequenceType)


def test_inference_leaves_a_model_that_it_cannot_follow():
    model = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
agraph (float[2, 3] x) => (float y) { h = Relu (x) y = MatMul (h, h) }""")
    )
    infer_shapes(model)
    assert all(value.type is None for node in list(model.graph)[:1] for value in node.outputs)


@pytest.mark.parametrize("opset", [9, 13, 21])
@pytest.mark.parametrize(
    ("sizes", "rank"),
    [
        ("k = Shape (x) r = Reshape (x, k)", 4),
        (
            "one = Constant <value = int64[1] {-1}> () k = Shape (x) l = Concat <axis = 0> (one, k) r = Reshape (x, l)",
            5,
        ),
        ("k = Shape (x) q = Reshape (x, k) l = Shape (q) r = Reshape (q, l)", 4),
        ("r = Reshape (x, given)", 3),
    ],
)
@pytest.mark.parametrize("is_followed", [True, False])
def test_the_rank_of_what_is_reshaped_to_computed_sizes(sizes, rank, opset, is_followed):
    other = "o = Relu (x)" if is_followed else "o = MatMul (w, w)"
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N, C, H, W] x, int64[3] given, float[2, 3] w) => (float[M] y, float[K] o2) {{
    {sizes} s = Sigmoid (r) y = Tanh (s) {other} o2 = Neg (o) }}""")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    followed = ir.from_proto(model)
    results = {node.outputs[0].name: node.outputs[0] for node in followed.graph}
    shape = Types(followed).shape(results["s"])
    assert shape is not None
    assert len(shape) == rank


def _scores_by_class(*, in_branch: bool) -> onnx.ModelProto:
    """A batch norm, and what classifiers of scikit-learn end in: a sequence of maps from classes to scores."""
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    vectors = {"scale": [1.5, 0.5, -2.0], "B": [0.5, 0.0, 1.0], "mean": [1.0, -2.0, 0.25], "var": [0.5, 4.0, 1.0]}

    def zip_map(name: str) -> onnx.NodeProto:
        return helper.make_node("ZipMap", ["n"], [name], domain="ai.onnx.ml", classlabels_int64s=[4, 5, 6])

    nodes = [helper.make_node("BatchNormalization", ["x", *vectors], ["n"])]
    if in_branch:
        branches = [
            helper.make_graph([zip_map(name)], name, [], [helper.make_value_info(name, maps)])
            for name in ("one", "two")
        ]
        condition = numpy_helper.from_array(np.array(True))
        nodes.append(helper.make_node("Constant", [], ["c"], value=condition))
        nodes.append(helper.make_node("If", ["c"], ["scores"], then_branch=branches[0], else_branch=branches[1]))
    else:
        nodes.append(zip_map("scores"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_value_info("scores", maps)],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in vectors.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("in_branch", [False, True])
@pytest.mark.parametrize("make", [onnx_cbp.finalize, onnx_cbp.rewrite, partial(onnx_cbp.rewrite, train="*")])
def test_maps_keep_their_types(make, in_branch):
    model = _scores_by_class(in_branch=in_branch)
    before = model.SerializeToString(deterministic=True)
    (found,) = onnx_cbp.inspect(model)
    made = make(model)
    assert model.SerializeToString(deterministic=True) == before
    assert found.form.startswith("BatchNormalization")
    assert list(made.graph.output) == list(model.graph.output)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    backend = "auto" if any(node.domain == "onnx_cbp" for node in made.graph.node) else None
    (got,) = session(made, backend).run(None, {"x": x})
    assert [sorted(each) for each in got] == [[4, 5, 6]] * 4
    if make is onnx_cbp.finalize:
        (want,) = session(model, None).run(None, {"x": x})
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose([one[key] for key in (4, 5, 6)], [other[key] for key in (4, 5, 6)], rtol=1e-5)


def test_nothing_is_left_of_a_branch_that_is_never_taken():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2] x) => (float[N, 2] y)
<bool c = {1}, float[2] taken = {1, 2}, float[2] other = {3, 4}>
{
    h = Relu (x)
    y = If (c) <then_branch = t () => (float[N, 2] a) { a = Add (h, taken) },
                else_branch = e () => (float[N, 2] b) { b = Mul (h, other) }>
}
""")
    finalized = onnx_cbp.finalize(model)
    assert {tensor.name for tensor in finalized.graph.initializer} == {"taken"}
    assert onnx_cbp.finalize(finalized) == finalized
