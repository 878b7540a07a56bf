"""Constants of types and values that an op does not take: each verb gives its result, or one line, and soon."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from support.refusals import every_verb, refusals

C = 3
MODEL = """
<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N, 3, 2, 2] x) => (float[N, 3, 2, 2] y)
<float[3] s = {{1.5, 0.5, -2}}, float[3] b = {{0.5, 0, 1}}, float[3] m = {{1, -2, 0.25}}, float[3] v = {{0.5, 4, 1}}>
{{
    {nodes}
}}
"""
TRAINS = "y, p, q = BatchNormalization <training_mode = 1> (z, s, b, m, v)"
ARITHMETIC = """
    mu = ReduceMean <axes = [0, 2, 3]> (x)
    d = Sub (x, mu)
    sq = {square}
    var = ReduceMean <axes = [0, 2, 3]> (sq)
    shifted = Add (var, {epsilon})
    sd = {root}
    n = Div (d, sd)
    y = {last}
"""
ODD = {
    "nan": np.array([np.nan], np.float32),
    "inf": np.array([np.inf], np.float32),
    "complex": np.array([1j], np.complex64),
    "large": np.array([2**64 - 1], np.uint64),
    "two axes": np.array([[1, 2], [3, 4]]),
    "empty": np.zeros(0, np.int64),
    "far": np.array([99]),
    "text": helper.make_tensor("k", TensorProto.STRING, [1], [b"abc"]),
}


def model(nodes, opset=18, **constants):
    made = onnx.parser.parse_model(MODEL.format(nodes=nodes, opset=opset))
    for name, constant in constants.items():
        tensor = made.graph.initializer.add()
        tensor.CopyFrom(constant if isinstance(constant, TensorProto) else numpy_helper.from_array(constant))
        tensor.name = name
    return made


def said_by(made, folder):
    x = np.random.default_rng(0).normal(size=(2, C, 2, 2)).astype(np.float32)
    momentum = {"momentum": lambda: onnx_cbp.update_bn(made, [x], momentum=0.5)}
    return refusals(every_verb(made, x, folder) | momentum)


@pytest.mark.parametrize("constant", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    "op",
    [
        *("Squeeze (x, k)", "Unsqueeze (x, k)", "Reshape (x, k)", "ReduceMean (x, k)", "Slice (x, k, k, k, k)"),
        *("Pad (x, k)", "CumSum (x, k)", "Gather (x, k)", "Dropout (x, k)", "Dropout (x, , k)"),
    ],
)
def test_sizes_places_and_axes_of_other_types(op, constant, tmp_path):
    if op.startswith("CumSum") and constant is ODD["empty"] and ort.__version__.startswith(("1.17.", "1.19.")):
        pytest.skip(f"update_bn runs it, and ONNX Runtime {ort.__version__} ends the process")
    sizes = "w = Shape (z) w2 = Gather (w, k) w3 = Slice (w, k, k) w4 = Cast <to = 1> (w2)"
    said_by(model(f"z = {op} {sizes} {TRAINS}", k=constant), tmp_path)


@pytest.mark.parametrize("constant", ODD.values(), ids=ODD)
def test_an_element_of_a_sequence_at_no_place(constant, tmp_path):
    said_by(model(f"all = SplitToSequence (x, k) z = SequenceAt (all, k) {TRAINS}", k=constant), tmp_path)


def test_a_sequence_of_more_elements_than_a_graph_holds(tmp_path):
    made = model(f"all = SplitToSequence <keepdims = 0> (w) z = SequenceAt (all, i) {TRAINS}", i=np.array(3))
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2**40, C, 2, 2]))
    said_by(made, tmp_path)


@pytest.mark.parametrize("constant", [*ODD.values(), np.array([5e-324])], ids=[*ODD, "next to zero"])
@pytest.mark.parametrize("place", ["epsilon", "square", "root", "last", "cast"])
def test_numbers_in_arithmetic(place, constant, tmp_path):
    usual = {"epsilon": "e", "square": "Mul (d, d)", "root": "Sqrt (shifted)", "last": "Identity (n)"}
    odd = {"epsilon": "k", "square": "Pow (d, k)", "root": "Pow (shifted, k)", "last": "Div (n, k)"}
    cast = "text = Cast <to = 8> (k) number = Cast <to = 1> (text) "
    given = usual | ({"last": "Mul (n, number)"} if place == "cast" else {place: odd[place]})
    nodes = (cast if place == "cast" else "") + ARITHMETIC.format(**given)
    said_by(model(nodes, 17, e=np.array([1e-5], np.float32), k=constant), tmp_path)


COUNTED = """
    s1 = ReduceSum (x, axes) sh = Shape (x) {count} number = Cast <to = 1> (c)
    mu = Div (s1, number) d = Sub (x, mu) sq = Mul (d, d) s2 = ReduceSum (sq, axes) var = Div (s2, number)
    shifted = Add (var, e) sd = Sqrt (shifted) y = Div (d, sd)
"""
AXES = {"axes": np.array([0, 2, 3]), "e": np.array([1e-5], np.float32)}


@pytest.mark.parametrize("constant", ODD.values(), ids=ODD)
@pytest.mark.parametrize("count", ["c = Gather (sh, k)", "c = Slice (sh, k, k)", "c = Identity (k)"])
def test_counts_in_arithmetic(count, constant, tmp_path):
    said_by(model(COUNTED.format(count=count), 17, k=constant, **AXES), tmp_path)


def test_a_count_that_is_multiplied_by_itself_again_and_again(tmp_path):
    squares = " ".join(f"c{index + 1} = Mul (c{index}, c{index})" for index in range(40))
    nodes = COUNTED.format(count=f"c0 = Gather (sh, k) {squares} c = Identity (c40)")
    said_by(model(nodes, 17, k=np.array([0]), **AXES), tmp_path)


@pytest.mark.parametrize("shape", [[], [4], [4, C], [2**40, C, 2, 2]])
@pytest.mark.parametrize("op", ["Reshape (x, k)", "Flatten (x)", "Cast <to = 1> (x)", "Add (x, x)"])
@pytest.mark.parametrize(
    "behind",
    [
        "mu = ReduceMean <axes = [0, 2, 3]> (z) y = Sub (z, mu)",
        "turned = Transpose <perm = [0, 3, 1, 2]> (z) mean = ReduceMean <axes = [0, 2, 3]> (turned) "
        "y = BatchNormalization (turned, s, b, mean, v)",
        TRAINS,
    ],
)
def test_a_graph_that_declares_another_number_of_axes(op, shape, behind, tmp_path):
    made = model(f"z = {op} {behind}", 17, k=np.array([0, 3, -1]))
    made.graph.value_info.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, shape))
    said_by(made, tmp_path)


@pytest.mark.parametrize("how", ["initializer", "Constant", "Identity"])
@pytest.mark.parametrize("place", [1, 3])
@pytest.mark.parametrize("mode", ["", "<training_mode = 1>"])
def test_text_as_a_parameter_of_a_batch_norm(mode, place, how, tmp_path):
    text = helper.make_tensor("k", TensorProto.STRING, [C], [b"abc"] * C)
    made = model(f"y{', p, q' if mode else ''} = BatchNormalization {mode} (x, s, b, m, v)", k=text)
    (node,) = made.graph.node
    node.input[place] = "k" if how == "initializer" else "odd"
    if how == "Identity":
        made.graph.node.insert(0, helper.make_node("Identity", ["k"], ["odd"]))
    elif how == "Constant":
        made.graph.node.insert(0, helper.make_node("Constant", [], ["odd"], value=made.graph.initializer.pop()))
    said = said_by(made, tmp_path)
    assert "has type STRING" in said["train"]
    assert "has type STRING" in said["update_bn"]
    (site,) = onnx_cbp.inspect(made)
    assert site.state == "refused"
