"""Odd nodes, sizes and metadata: each verb gives its result, or one line, and soon."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_cbp
from onnx_cbp.training import generate_artifacts
from onnx_cbp.training.api import CheckpointState, Module
from support.refusals import every_verb, refusals

MODEL = """
<ir_version: 8, opset_import: ["" : {opset}, "nowhere" : 1, "onnx_cbp" : 1, "com.microsoft" : 1]>
agraph ({inputs}) => ({outputs})
<float[3] s = {{1.5, 0.5, -2}}, float[3] b = {{0.5, 0, 1}}, float[3] m = {{1, -2, 0.25}}, float[3] v = {{0.5, 4, 1}}>
{{
    {nodes}
}}
"""
INFERS = "y = BatchNormalization (z, s, b, m, v)"
TRAINS = "y, p, q = BatchNormalization <training_mode = 1> (z, s, b, m, v)"
SCOPES = "pkg.torch.onnx.name_scopes"


def model(nodes, *, opset=17, inputs="float[N, 3, 2, 2] x", outputs="float[N, 3, 2, 2] y"):
    return onnx.parser.parse_model(MODEL.format(nodes=nodes, opset=opset, inputs=inputs, outputs=outputs))


def said_by(made, folder):
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 2)).astype(np.float32)
    return refusals(every_verb(made, {"x": x}, folder))


def described(made, text):
    entry = made.metadata_props.add()
    entry.key, entry.value = "onnx_cbp.training", text
    return made


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "1", "{}", '{"version": 1}', '{"loss": 3}', '{"loss": "y", "gone": 1}', "[" * 100_000),
        *('{"loss": "y", "gradients": 5}', '{"loss": "y", "gradients": {"x": ["y"]}}', '{"loss": "y", "frozen": 5}'),
        *('{"loss": "y", "random_state": ["x"]}', '{"loss": "y", "scores": [["y"]]}'),
    ],
    ids=lambda text: text[:40],
)
def test_metadata_that_no_training_graph_of_ours_has(text, tmp_path):
    said = said_by(described(model(f"z = Relu (x) {TRAINS}"), text), tmp_path)
    assert "'onnx_cbp.training'" in said["finalize"]


def test_metadata_that_names_what_is_not_there(tmp_path):
    text = json.dumps({"loss": "nothing", "gradients": {"nothing": "y"}, "scores": ["nothing"]})
    said_by(described(model(f"z = Relu (x) {TRAINS}"), text), tmp_path)


@pytest.mark.parametrize(
    "nodes", ["k = Constant <value_float = 1.0> () z = Add (x, k)", "h, i = Split <axis = 0> (x) z = Add (h, i)"]
)
def test_a_mask_that_is_none(nodes, tmp_path):
    made = described(model(f"{nodes} {TRAINS}"), '{"loss": "nothing"}')
    for node in made.graph.node:
        node.metadata_props.add(key="onnx_cbp.random_mask", value="1")
    said_by(made, tmp_path)


@pytest.mark.parametrize("text", ["{[]: 1}", "{{}}", "[{1: {[]}}]"])
def test_names_of_modules_that_are_no_list_of_text(text, tmp_path):
    made = model(f"z = Relu (x) {TRAINS}")
    for node in made.graph.node:
        node.metadata_props.add(key=SCOPES, value=text)
    assert "inspect" not in said_by(made, tmp_path)


@pytest.mark.parametrize("read", ["s", "m", "copy", "x"])
@pytest.mark.parametrize("behind", [INFERS, TRAINS])
def test_a_node_without_results(behind, read, tmp_path):
    made = model(f"z = Relu (x) copy = Identity (m) {behind}")
    made.graph.node.append(helper.make_node("Sink", [read], [], domain="nowhere"))
    assert "inspect" not in said_by(made, tmp_path)


def test_a_sparse_initializer_inside_of_a_node_without_results(tmp_path):
    made = model(f"z = Relu (x) {TRAINS}")
    values, indices = (numpy_helper.from_array(np.ones(1, dtype), "w") for dtype in (np.float32, np.int64))
    body = helper.make_graph([], "body", [], [])
    body.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    made.graph.node.append(helper.make_node("Sink", [], [], domain="nowhere", body=body))
    said = said_by(made, tmp_path)
    assert all("a node nowhere.Sink without a name has a subgraph" in each for each in said.values())
    assert len(said) == 8


def test_a_scale_that_is_added_to_itself_again_and_again(tmp_path):
    sums = " ".join(f"s{index + 1} = Sum ({', '.join([f's{index}'] * 12)})" for index in range(16))
    said_by(model(f"s0 = Identity (s) {sums} y = BatchNormalization (x, s16, b, m, v)"), tmp_path)


def test_layers_are_one_module_by_what_their_scales_are_made_of():
    """Equal sums are equal, also where other nodes make them."""
    nodes = """
        s1 = Add (s, s) h = BatchNormalization (x, s1, b, m, v)
        s2 = Add (s, s) y = BatchNormalization (h, s2, b, m, v)
    """
    x = np.random.default_rng(0).normal(3, 2, (4, 3, 2, 2)).astype(np.float32)
    updated = {"s2 = Add (s, s)": 0, "s2 = Add (s, b)": 0}
    for second in updated:
        made = onnx_cbp.update_bn(model(nodes.replace("s2 = Add (s, s)", second)), [x])
        updated[second] = len({node.input[3] for node in made.graph.node if node.op_type == "BatchNormalization"})
    assert list(updated.values()) == [1, 2]


@pytest.mark.parametrize("op", ["Identity ({0})", "Concat <axis = 0> ({0}, {0})"])
def test_a_weight_that_is_copied_again_and_again(op, tmp_path):
    copies = " ".join(f"s{index + 1} = {op.format(f's{index}')}" for index in range(1200 if "Identity" in op else 40))
    said_by(model(f"s0 = Identity (s) {copies} last = Neg (s40) z = Relu (x) {TRAINS}"), tmp_path)


@pytest.mark.parametrize(
    "nodes", [f"z = Relu (x) {TRAINS}", f"d = com.microsoft.InPlaceAccumulatorV2 (s, b, lazy) z = Relu (x) {TRAINS}"]
)
def test_a_graph_without_outputs(nodes, tmp_path):
    made = model(nodes, inputs="float[N, 3, 2, 2] x, bool lazy")
    del made.graph.output[:]
    said_by(made, tmp_path)


@pytest.mark.parametrize("channels", [2**31 - 1, 2**40])
def test_a_product_with_more_channels_than_memory_holds(channels, tmp_path):
    made = model(
        "c = MatMul (x, w) f = Mul (c, v2) y = Add (f, v2) v2 = Constant <value_float = 2.0> ()",
        inputs=f"float[2, 3] x, float[3, {channels}] w",
        outputs="float[2, M] y",
    )
    said_by(made, tmp_path)


@pytest.mark.parametrize("axis", [-(2**31), -(2**40), -5])
def test_a_layer_normalization_over_more_axes_than_there_are(axis, tmp_path):
    said_by(model(f"z = LayerNormalization <axis = {axis}> (x, x) {INFERS}", opset=16), tmp_path)


@pytest.mark.parametrize("op", ["Slice (x, w, w)", "Reshape (x, w)", "Expand (x, w)", "ConstantOfShape (w)"])
def test_an_input_of_more_sizes_than_there_are_axes(op, tmp_path):
    made = model(f"z = {op} {TRAINS}", inputs=f"float[N, 3, 2, 2] x, int64[{2**31 - 1}] w")
    if "Slice" not in op and tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 18):
        onnx_cbp.rewrite(made)  # finalize calls onnx's checker, which takes up to 24 GB for it before 1.18
        return
    said_by(made, tmp_path)


@pytest.mark.parametrize("shape", [(1, 7, 1, 1), (7, 1, 1), (1, 3, 1, 1)])
def test_an_add_of_another_number_of_channels_is_not_folded(shape, tmp_path):
    made = model(f"c = Conv (x, w) z = Add (c, k) {INFERS}")
    for name, array in (("w", np.ones((3, 3, 1, 1), np.float32)), ("k", np.ones(shape, np.float32))):
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    for name in "cz":
        made.graph.value_info.append(helper.make_tensor_value_info(name, 1, ["N", 3, 2, 2]))
    assert ("finalize" in said_by(made, tmp_path)) == (7 in shape)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_loss_of_a_single_number(keepdims, tmp_path):
    made = model(
        f"y = ReduceMean <axes = [0], keepdims = {keepdims}> (x) d = com.microsoft.InPlaceAccumulatorV2 (s, b, lazy)",
        inputs="float x, bool lazy",
        outputs="float y",
    )
    said_by(made, tmp_path)


def test_constants_that_are_cast_to_text(tmp_path):
    nodes = """
        k = Constant <value_floats = [1.0, 2.0, 3.0]> () text = Cast <to = 8> (k) same = Identity (text)
        number = Cast <to = 1> (same) z = Relu (x) y = BatchNormalization (z, s, number, m, v)
    """
    assert "finalize" not in said_by(model(nodes), tmp_path)


@pytest.mark.parametrize("axis", [-1, 7])
@pytest.mark.parametrize(
    "nodes",
    [
        "BatchNormTrain <axis = {0}, epsilon = 0.1> (x, s, b)",
        "ChannelNormalize <axis = {0}, epsilon = 0.1> (x, s, b, m, v)",
    ],
)
def test_ops_of_ours_of_a_single_number(nodes, axis, tmp_path):
    results = "y, p, q, r" if "Train" in nodes else "y"
    said_by(model(f"{results} = onnx_cbp.{nodes.format(axis)}", inputs="float x", outputs="float y"), tmp_path)


def test_a_negative_size_is_a_free_one(tmp_path):
    """Old exporters (MXNet, CNTK) declare a free batch size as -1, which ONNX Runtime takes for unknown."""
    made = model(f"z = Relu (x) {TRAINS}")
    for info in (*made.graph.input, *made.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = -1
    assert not said_by(made, tmp_path).keys() & {"inspect", "rewrite", "train", "synchronize", "update_bn"}
    for loss in ("MSELoss", "CrossEntropyLoss"):
        generate_artifacts(
            made,
            loss=loss,
            loss_input_names=["y"],
            requires_grad=["s"],
            builder="onnx_cbp",
            artifact_directory=tmp_path,
        )
        state = CheckpointState.load_checkpoint(tmp_path / "checkpoint")
        module = Module(tmp_path / "training_model.onnx", state)
        for samples in (2, 5):
            x = np.random.default_rng(samples).normal(size=(samples, 3, 2, 2)).astype(np.float32)
            target = x if loss == "MSELoss" else np.zeros((samples, 2, 2), np.int64)
            assert np.isfinite(module(x, target))
