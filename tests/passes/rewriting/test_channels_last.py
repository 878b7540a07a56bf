"""Transposes that only bring the channels to axis 1 go; all others stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_cbp import rewrite
from onnx_cbp.graph_passes import ChannelsLastPass
from support.models import op_types, parse
from support.ops import session

SIZES = {3: (4, 5, 3), 4: (4, 5, 6, 3), 5: (2, 4, 5, 6, 3)}


def channels_last(rank=4, between="", x="x", outputs="", more="", training=1):
    """A batch norm between two transposes: `between` are nodes from y to r, `more` are nodes behind."""
    there, back = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    sizes = ", ".join(map(str, SIZES[rank]))
    updated = ", um, uv" if training else ""
    return parse(f"""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[{sizes}] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[{sizes}] z{outputs})
{{
    t = Transpose <perm = {there}> ({x})
    y{updated} = BatchNormalization <training_mode: int = {training}, momentum: float = 0.7> (t, s, b, m, v)
    {between or "r = Identity (y)"}
    z = Transpose <perm = {back}> (r)
    {more}
}}""")


def feeds(rank):
    rng = np.random.default_rng(rank)
    given = {n: rng.uniform(0.5, 2, 3) for n in "sbmv"}
    return {name: v.astype(np.float32) for name, v in {**given, "x": rng.normal(2, 3, SIZES[rank])}.items()}


def assert_same(model, rewritten, rank):
    onnx.checker.check_model(rewritten, full_check=True)
    assert [o.name for o in rewritten.graph.output] == [o.name for o in model.graph.output]
    want = session(model, None).run(None, feeds(rank))
    for got, expected in zip(session(rewritten, "auto").run(None, feeds(rank)), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rank", SIZES)
@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("between", ["", "r = Relu (y)", "q = LeakyRelu <alpha: float = 0.1> (y) r = Tanh (q)"])
def test_the_transposes_go(rank, one_pass, between):
    model = channels_last(rank, between, outputs=", float[3] um, float[3] uv")
    rewritten = rewrite(model, one_pass=one_pass)
    assert "Transpose" not in op_types(rewritten)
    axes = [a.i for node in rewritten.graph.node for a in node.attribute if a.name == "axis"]
    assert set(axes) == {-1}
    assert_same(model, rewritten, rank)
    known = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in rewritten.graph.value_info}
    full = [sizes for sizes in known.values() if len(sizes) == rank]
    assert all(tuple(sizes) == SIZES[rank] for sizes in full), "shapes are those of the new layout"


def test_a_relu_between_is_folded():
    assert op_types(rewrite(channels_last(4, "r = Relu (y)", outputs=", float[3] um, float[3] uv"))) == [
        "BatchNormTrainUpdate"
    ]


@pytest.mark.parametrize(
    ("other", "outputs"),
    [
        ("w = Softmax <axis: int = 1> (y)", ", float[4, 3, 5, 6] w"),
        ("", ", float[4, 3, 5, 6] r"),
        ("w = Transpose <perm = [0, 3, 2, 1]> (r)", ", float[4, 6, 5, 3] w"),
    ],
    ids=["another reader", "an output of the graph", "another transpose"],
)
def test_they_stay_where_something_reads_the_other_layout(other, outputs):
    model = channels_last(outputs=outputs, more=other)
    rewritten = rewrite(model)
    assert op_types(rewritten).count("Transpose") == op_types(model).count("Transpose")
    assert "BatchNormTrainUpdate" in op_types(rewritten)
    assert_same(model, rewritten, 4)


def test_the_first_transpose_stays_for_its_other_readers():
    model = channels_last(outputs=", float[4, 3, 5, 6] w", more="w = Neg (t)")
    rewritten = rewrite(model)
    assert op_types(rewritten).count("Transpose") == 1
    assert_same(model, rewritten, 4)


def test_two_equal_outputs_stay_two():
    model = channels_last(outputs=", float[4, 5, 6, 3] w", more="w = Transpose <perm = [0, 2, 3, 1]> (r)")
    assert_same(model, rewrite(model), 4)


def test_other_permutations_stay():
    model = channels_last()
    model.graph.node[0].attribute[0].ints[:] = [0, 3, 2, 1]
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.CopyFrom(onnx.helper.make_tensor_type_proto(1, (4, 6, 5, 3)))
    rewritten = rewrite(model)
    assert op_types(rewritten).count("Transpose") == 2
    assert_same(model, rewritten, 4)


def test_inference_form_stays():
    model = channels_last(training=0)
    assert rewrite(model) == model


def test_a_second_run_changes_nothing_and_the_pass_says_so():
    once = rewrite(channels_last())
    assert rewrite(once) == once
    assert not ChannelsLastPass()(ir.from_proto(once)).modified
    assert not ChannelsLastPass()(ir.from_proto(channels_last())).modified, "not rewritten yet"
