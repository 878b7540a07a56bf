"""Models for inference: what is folded, what is kept, and that nothing but ONNX is left. Judged in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from onnx_cbp import OnnxCbpError
from support.gradients.in_double import in_double
from support.made_up.networks import random_network
from support.models import FORWARD, INFERENCE, TRAINING, op_types, parse, without_running_statistics
from support.ops import session

BN = "BatchNormalization"


def _values(channels: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    spread = {"scale": rng.normal(0, 1.5, channels), "B": rng.normal(0, 1, channels)}
    return {**spread, "mean": rng.normal(0, 2, channels), "var": rng.uniform(1e-3, 3, channels)}


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: tuple,
    *,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    as_nodes: bool = False,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    if as_nodes:
        nodes = [*(helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors), *nodes]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [] if as_nodes else tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _finalize(model: onnx.ModelProto, folded: int, batch_norms: int = 1) -> onnx.ModelProto:
    """The finalized model, checked against float64."""
    done: list[onnx_cbp.Finalized] = []
    before = model.SerializeToString(deterministic=True)
    final = onnx_cbp.finalize(model, report=done.append)
    assert model.SerializeToString(deterministic=True) == before
    assert (done[0].batch_norms, done[0].folded) == (batch_norms, folded)
    assert op_types(final).count(BN) == batch_norms - folded
    _is_onnx(final)
    dims = [d.dim_value or 5 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(0.5, 2, dims).astype(np.float32)
    assert final.graph.input[0] == model.graph.input[0]
    for got, want in zip(session(final, None).run(None, {"x": x}), in_double(model, {"x": x}), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    return final


def _is_onnx(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} <= {""}
    assert {node.domain for node in model.graph.node} <= {""}
    assert not model.functions


#: Linear ops: name, shape of the weight, shape of x behind the batch, attributes.
LINEAR = {
    "Conv": ("Conv", (5, 3, 3, 3), (3, 6, 7), {}),
    "Conv-1d": ("Conv", (4, 2, 3), (2, 9), {"strides": [2]}),
    "Conv-3d": ("Conv", (4, 2, 2, 2, 2), (2, 3, 4, 5), {}),
    "Conv-grouped": ("Conv", (6, 2, 3, 3), (4, 5, 6), {"group": 2}),
    "Conv-depthwise": ("Conv", (6, 1, 3, 3), (6, 5, 6), {"group": 6, "pads": [1, 1, 1, 1]}),
    "ConvTranspose": ("ConvTranspose", (3, 5, 2, 2), (3, 4, 5), {"strides": [2, 2]}),
    "Gemm": ("Gemm", (4, 7), (4,), {}),
    "Gemm-transposed": ("Gemm", (7, 4), (4,), {"transB": 1, "alpha": 0.5, "beta": 3.0}),
}


def _channels(op_type: str, weight: tuple[int, ...], attributes: dict) -> int:
    if op_type == "Conv" or attributes.get("transB"):
        return weight[0]
    return weight[1] * attributes.get("group", 1)


def _linear(kind: str, *, bias: bool, opset: int = 17, as_nodes: bool = False) -> onnx.ModelProto:
    op_type, weight, shape, attributes = LINEAR[kind]
    rng = np.random.default_rng(7)
    channels = _channels(op_type, weight, attributes)
    constants = {"W": rng.normal(0, 1, weight), **_values(channels, rng)}
    if bias:
        constants["b"] = rng.normal(0, 1, channels)
    nodes = [
        helper.make_node(op_type, ["x", "W", *(["b"] if bias else [])], ["c"], **attributes),
        helper.make_node(BN, ["c", "scale", "B", "mean", "var"], ["n"], epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    return _model(nodes, constants, shape, opset=opset, as_nodes=as_nodes)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", LINEAR)
def test_folds_into_linear_ops(kind, bias):
    final = _finalize(_linear(kind, bias=bias), folded=1)
    assert op_types(final) == [LINEAR[kind][0], "Relu"]
    assert len(final.graph.initializer) == 2


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", LINEAR)
def test_a_bias_of_its_own_is_folded_too(kind, first):
    """As Keras writes a Dense layer."""
    model = _linear(kind, bias=False)
    linear = model.graph.node[0]
    shape = (-1, *[1] * (len(LINEAR[kind][2]) - 1))
    channels = _channels(LINEAR[kind][0], LINEAR[kind][1], LINEAR[kind][3])
    bias = np.random.default_rng(8).normal(0, 1, channels).astype(np.float32).reshape(shape)
    model.graph.initializer.append(numpy_helper.from_array(bias, "a"))
    linear.output[0] = "before"
    model.graph.node.insert(1, helper.make_node("Add", ["a", "before"] if first else ["before", "a"], ["c"]))
    final = _finalize(model, folded=1)
    assert op_types(final) == [LINEAR[kind][0], "Relu"]


def test_what_is_added_along_another_axis_is_no_bias():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, 3] x) => (float[N, 3, 3] y)
<float[3, 3, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] along = {1, 2, 3}, float[3] s = {1, 2, 3}>
{ c = Conv (x, w) a = Add (c, along) y = BatchNormalization (a, s, s, s, s) }
""")
    assert op_types(onnx_cbp.finalize(model)) == ["Conv", "Add", "BatchNormalization"]


@pytest.mark.parametrize("group", [2, 3])
def test_folds_into_a_grouped_transposed_convolution(group):
    # onnx's reference does not know groups here: ONNX Runtime computes the op before the batch norm.
    rng = np.random.default_rng(group)
    wide = 2 * group
    constants = {"W": rng.normal(0, 1, (6, 2, 2, 2)), "b": rng.normal(0, 1, wide), **_values(wide, rng)}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "W", "b"], ["c"], group=group),
        helper.make_node(BN, ["c", "scale", "B", "mean", "var"], ["y"]),
    ]
    model = _model(nodes, constants, (6, 3, 4))
    done: list[onnx_cbp.Finalized] = []
    final = onnx_cbp.finalize(model, report=done.append)
    assert done[0].folded == 1
    assert op_types(final) == ["ConvTranspose"]
    x = rng.normal(0, 2, (3, 6, 3, 4)).astype(np.float32)
    (got,), (want,) = (session(m, None).run(None, {"x": x}) for m in (final, model))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm-transposed"])
def test_weights_may_be_constant_nodes(kind):
    assert op_types(_finalize(_linear(kind, bias=True, as_nodes=True), folded=1)) == [LINEAR[kind][0], "Relu"]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 18])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm"])
def test_in_every_opset(kind, opset):
    _finalize(_linear(kind, bias=True, opset=opset), folded=1)


@pytest.mark.parametrize("turned", [False, True], ids=["", "of a weight that is transposed"])
def test_a_matmul_becomes_a_gemm(turned):
    rng = np.random.default_rng(0)
    nodes = [
        *([helper.make_node("Transpose", ["W"], ["V"], perm=[1, 0])] if turned else []),
        helper.make_node("MatMul", ["x", "V" if turned else "W"], ["c"]),
        helper.make_node(BN, ["c", "scale", "B", "mean", "var"], ["y"]),
    ]
    weight = rng.normal(0, 1, (6, 4) if turned else (4, 6))
    model = _model(nodes, {"W": weight, **_values(6, rng)}, (4,))
    assert op_types(_finalize(model, folded=1)) == ["Gemm"]


@pytest.mark.parametrize(
    ("bias", "folded"),
    [
        (
            "zero = Constant <value_float: float = 0.5> ()  z = CastLike (zero, x)  s3 = Shape (s)  b = Expand (z, s3)",
            1,
        ),
        ("b = Mul (B, s)", 1),
        ("b = ReduceMean <axes: ints = [0, 2], keepdims: int = 0> (x)", 0),
    ],
)
def test_a_bias_may_be_computed_from_constants(bias, folded):
    text = f"""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, 4] x) => (float[N, 3, 4] y)
<float[3, 3, 1] w = {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0}}, float[3] s = {{1.5, 0.5, -2.0}},
 float[3] B = {{0.5, 0.0, 1.0}}, float[3] m = {{1.0, -2.0, 0.25}}, float[3] v = {{0.5, 4.0, 1.0}}>
{{ {bias} c = Conv (x, w, b)  y = BatchNormalization (c, s, B, m, v) }}
"""
    model = parse(text)
    done: list[onnx_cbp.Finalized] = []
    final = onnx_cbp.finalize(model, report=done.append)
    assert done[0].folded == folded
    if folded:
        assert op_types(final) == ["Conv"]
        x = np.random.default_rng(0).normal(0, 2, (2, 3, 4)).astype(np.float32)
        (got,), (want,) = (session(m, None).run(None, {"x": x}) for m in (final, model))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_two_batch_norms_behind_one_another_both_fold():
    rng = np.random.default_rng(0)
    second = {f"{name}2": value for name, value in _values(5, rng).items()}
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["c"]),
        helper.make_node(BN, ["c", "scale", "B", "mean", "var"], ["n"]),
        helper.make_node(BN, ["n", "scale2", "B2", "mean2", "var2"], ["y"]),
    ]
    model = _model(nodes, {"W": rng.normal(0, 1, (5, 3, 2, 2)), **_values(5, rng), **second}, (3, 4, 4))
    assert op_types(_finalize(model, folded=2, batch_norms=2)) == ["Conv"]


def test_a_weight_that_two_layers_share_is_folded_for_each():
    rng = np.random.default_rng(0)
    second = {f"{name}2": value for name, value in _values(3, rng).items()}
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node(BN, ["c", "scale", "B", "mean", "var"], ["n"]),
        helper.make_node("Conv", ["n", "W"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node(BN, ["d", "scale2", "B2", "mean2", "var2"], ["y"]),
    ]
    model = _model(nodes, {"W": rng.normal(0, 1, (3, 3, 3, 3)), **_values(3, rng), **second}, (3, 4, 4))
    _finalize(model, folded=2, batch_norms=2)


@pytest.mark.parametrize("reader", ["another node", "an output", "another batch norm"])
def test_a_result_with_another_reader_is_not_folded(reader):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["c"]),
        helper.make_node(BN, ["c", "scale", "B", "mean", "var"], ["y"]),
    ]
    outputs, count = ("y", "z"), 1
    if reader == "another node":
        nodes.append(helper.make_node("Sigmoid", ["c"], ["z"]))
    elif reader == "another batch norm":
        nodes.append(helper.make_node(BN, ["c", "B", "scale", "mean", "var"], ["z"]))
        count = 2
    else:
        outputs = ("y", "c")
    model = _model(nodes, {"W": rng.normal(0, 1, (5, 3, 2, 2)), **_values(5, rng)}, (3, 4, 4), outputs=outputs)
    _finalize(model, folded=0, batch_norms=count)


def test_a_batch_norm_before_the_convolution_stays():
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node(BN, ["x", "scale", "B", "mean", "var"], ["n"]),
        helper.make_node("Conv", ["n", "W"], ["y"]),
    ]
    model = _model(nodes, {"W": rng.normal(0, 1, (5, 3, 2, 2)), **_values(3, rng)}, (3, 4, 4))
    assert op_types(_finalize(model, folded=0)) == [BN, "Conv"]


def test_a_weight_that_would_overflow_is_not_folded():
    model = _linear("Conv", bias=False)
    for tensor in model.graph.initializer:
        if tensor.name in ("W", "scale"):
            value = numpy_helper.to_array(tensor) * np.float32(1e25)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    done: list[onnx_cbp.Finalized] = []
    onnx_cbp.finalize(model, report=done.append)
    assert (done[0].batch_norms, done[0].folded) == (1, 0)


def test_dropout_lets_everything_through():
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["c"]),
        helper.make_node("Dropout", ["c", "ratio", "training"], ["d", "mask"]),
        helper.make_node(BN, ["d", "scale", "B", "mean", "var"], ["n"]),
        helper.make_node("Dropout", ["n"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    model = _model(nodes, {"W": rng.normal(0, 1, (5, 3, 2, 2)), **_values(5, rng), "ratio": np.array(0.5)}, (3, 4, 4))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
    final = onnx_cbp.finalize(model)
    assert op_types(final) == ["Conv"]
    del nodes[1], nodes[-1]
    nodes[0].output[0], nodes[1].output[0] = "d", "y"
    plain = _model(nodes, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer[:5]}, (3, 4, 4))
    x = rng.normal(0, 1, (2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(
        session(final, None).run(None, {"x": x})[0], in_double(plain, {"x": x})[0], rtol=1e-4, atol=1e-5
    )


def _with_values(network: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """The network with running statistics as training leaves them."""
    for tensor in network.graph.initializer:
        if "running" in tensor.name:
            value = rng.uniform(0.3, 2.0, tuple(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return network


def _as_inference(network: onnx.ModelProto) -> onnx.ModelProto:
    plain = onnx.ModelProto()
    plain.CopyFrom(network)
    for node in plain.graph.node:
        if node.op_type == BN:
            del node.output[1:]
            for attribute in list(node.attribute):
                if attribute.name == "training_mode":
                    node.attribute.remove(attribute)
    return plain


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_forward_graphs_that_train(seed, rank):
    rng = np.random.default_rng(seed)
    network = _with_values(random_network(seed, rank), rng)
    final = onnx_cbp.finalize(network)
    _is_onnx(final)
    assert [v.name for v in final.graph.input] == ["x"]
    assert final.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert [v.name for v in final.graph.output] == ["logits"]
    shape = [d.dim_value or 6 for d in network.graph.input[0].type.tensor_type.shape.dim]
    x = rng.normal(0.5, 2, shape).astype(np.float32)
    (want,) = in_double(_as_inference(network), {"x": x})
    (got,) = session(final, None).run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    assert op_types(onnx_cbp.finalize(final)) == op_types(final)


def _with_statistics(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with its updated running statistics among the outputs, so that a rewrite keeps them."""
    for node in network.graph.node:
        if node.op_type == BN:
            network.graph.output.extend(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output[1:]
            )
    return onnx.shape_inference.infer_shapes(network)


REWRITES: dict[str, dict] = {
    "one op": {},
    "no Relu folded": {"fold_relu": False},
    "in steps": {"one_pass": False},
    "synchronised": {"synchronize": True},
    "portable": {"portable": True},
}


@pytest.mark.parametrize("options", REWRITES.values(), ids=REWRITES)
def test_every_rewrite_finalizes_to_the_same(options):
    network = _with_statistics(_with_values(random_network(2, 4), np.random.default_rng(0)))
    want = onnx_cbp.finalize(network)
    assert [v.name for v in want.graph.output] == ["logits"], "statistics are no results of inference"
    got = onnx_cbp.finalize(onnx_cbp.rewrite(network, **options))
    _is_onnx(got)
    assert op_types(got) == op_types(want)
    for ours, theirs in zip(_weights(got), _weights(want), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _weights(model: onnx.ModelProto) -> list[np.ndarray]:
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [values[name] for node in model.graph.node for name in node.input if name in values]


def test_a_layer_that_is_called_twice_takes_the_statistics_of_before_both():
    text = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2, L] x) => (float[N, 2, L] y, float[2] m2, float[2] v2)
<float[2] s = {1.5, 0.5}, float[2] b = {0.5, 0.0}, float[2] m = {1.0, -2.0}, float[2] v = {0.5, 4.0}>
{
    n, m1, v1 = BatchNormalization <training_mode: int = 1> (x, s, b, m, v)
    t = Tanh (n)
    y, m2, v2 = BatchNormalization <training_mode: int = 1> (t, s, b, m1, v1)
}
"""
    for options in (None, {}, {"one_pass": False}):
        model = parse(text) if options is None else onnx_cbp.rewrite(parse(text), **options)
        final = onnx_cbp.finalize(model)
        norms = [node for node in final.graph.node if node.op_type == BN]
        assert [list(node.input[1:]) for node in norms] == [["s", "b", "m", "v"]] * 2
        assert [v.name for v in final.graph.output] == ["y"]


def test_channels_elsewhere_come_out_where_they_were():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1]>
agraph (float[N, 4, 3] x) => (float[N, 4, 3] y)
<float[3] s = {1.5, 0.5, -2.0}, float[3] b = {0.5, 0.0, 1.0}, float[3] m = {1.0, -2.0, 0.25},
 float[3] v = {0.5, 4.0, 1.0}>
{
    y = onnx_cbp.ChannelNormalize <axis: int = -1, epsilon: float = 0.001> (x, s, b, m, v)
}
""")
    final = onnx_cbp.finalize(model)
    _is_onnx(final)
    x = np.random.default_rng(0).normal(0, 2, (2, 4, 3)).astype(np.float32)
    s, b, m, v = (numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer)
    (got,) = session(final, None).run(None, {"x": x})
    np.testing.assert_allclose(got, s * (x - m) / np.sqrt(v + 1e-3) + b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("given", ["x, s, b", "x, s, b, m"])
@pytest.mark.parametrize("op", ["ChannelNormalize", "BatchNormTrainUpdate", "RunningStats"])
def test_a_function_that_is_called_without_statistics_is_told_of(op, given):
    """What a call leaves out is missing where the function stood."""
    lines = {
        "ChannelNormalize": "fy = onnx_cbp.ChannelNormalize <axis = 1, epsilon = 0.001> (fx, fs, fb, fm, fv)",
        "BatchNormTrainUpdate": "fy, a, i, u, w = onnx_cbp.BatchNormTrainUpdate <axis = 1, epsilon = 0.001, "
        "momentum = 0.9, unbiased = 0, relu = 0> (fx, fs, fb, fm, fv)",
        "RunningStats": "a, w, n = onnx_cbp.ChannelStats <axis = 1, stash_type = 1> (fx) "
        "fy = onnx_cbp.ChannelNormalize <axis = 1, epsilon = 0.001> (fx, fs, fb, a, w) "
        "u = onnx_cbp.RunningStats <momentum = 0.9, unbiased = 0> (fm, a, n) "
        "t = onnx_cbp.RunningStats <momentum = 0.9, unbiased = 0> (fv, w, n)",
    }
    model = parse(f"""
<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1, "local" : 1]>
agraph (float[N, 3, 4] x) => (float[N, 3, 4] y)
<float[3] s = {{1.5, 0.5, -2.0}}, float[3] b = {{0.5, 0.0, 1.0}}, float[3] m = {{1.0, -2.0, 0.25}}>
{{
    y = local.Norm ({given})
}}
<domain: "local", opset_import: ["" : 17, "onnx_cbp" : 1]>
Norm (fx, fs, fb, fm, fv) => (fy) {{ {lines[op]} }}
""")
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"local\.Norm\) gives nothing for 'f[mv]'"):
        onnx_cbp.finalize(model)


def test_statistics_that_are_made_of_the_result_are_told_of():
    """In training the batch's are taken, and the running ones only go into the new ones."""
    model = parse("""
<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1]>
agraph (float[N, 2, L] x) => (float[N, 2, L] y, float[2] m2, float[2] v2)
<float[2] s = {1.5, 0.5}, float[2] b = {0.5, 0.0}, float[2] m = {1.0, -2.0}>
{
    mean, var, count = onnx_cbp.ChannelStats <axis = 1, stash_type = 1> (x)
    y = onnx_cbp.ChannelNormalize <axis = 1, epsilon = 0.001> (x, s, b, mean, var)
    v = ReduceMax <axes = [0, 2], keepdims = 0> (y)
    m2 = onnx_cbp.RunningStats <momentum = 0.9, unbiased = 0> (m, mean, count)
    v2 = onnx_cbp.RunningStats <momentum = 0.9, unbiased = 0> (v, var, count)
}
""")
    with pytest.raises(onnx_cbp.OnnxCbpError, match="made of its own result 'y'"):
        onnx_cbp.finalize(model)


def test_named_outputs_are_kept_and_nothing_else():
    model = _linear("Conv", bias=True)
    final = onnx_cbp.finalize(model, outputs=["n", "c", "n"])
    assert [v.name for v in final.graph.output] == ["n", "c"]
    assert op_types(final) == ["Conv", BN], "another reads the convolution's result now"


def _scored(body: str, more: str = "") -> onnx.ModelProto:
    return parse(f"""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2] x, float[N, 3] target, int64[N] labels) => (float loss{more})
<float[2, 3] w = {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0}}, float[3] b = {{0.5, 0.0, 1.0}}, float[1] one = {{1.0}},
 float two = {{2.0}}, float[3] weights = {{0.5, 0.25, 0.25}},
 float[3, 3] square = {{1.0, 2.0, 0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 1.0}}>
{{
    score = Gemm (x, w, b)
    {body}
}}
""")


LOSSES = {
    "cross entropy": "loss, log_prob = SoftmaxCrossEntropyLoss (score, labels)",
    "weighted cross entropy": "loss = SoftmaxCrossEntropyLoss (score, labels, weights)",
    "squared error": "d = Sub (score, target)  s = Pow (d, two)  loss = ReduceMean <keepdims: int = 0> (s)",
    "absolute error": "d = Sub (target, score)  s = Abs (d)  loss = ReduceSum <keepdims: int = 0> (s)",
    "binary cross entropy": """
        p = Sigmoid (score)  lp = Log (p)  a = Mul (lp, target)
        q = Sub (one, p)  lq = Log (q)  t = Sub (one, target)  c = Mul (lq, t)
        e = Add (a, c)  n = Neg (e)  loss = ReduceMean <keepdims: int = 0> (n)""",
    "with a penalty": """
        d = Sub (score, target)  s = Mul (d, d)  m = ReduceMean <keepdims: int = 0> (s)
        w2 = Mul (w, w)  penalty = ReduceSum <keepdims: int = 0> (w2)  loss = Add (m, penalty)""",
}


@pytest.mark.parametrize("body", LOSSES.values(), ids=LOSSES)
def test_what_feeds_the_loss_is_kept(body):
    final = onnx_cbp.finalize(_scored(body))
    assert [v.name for v in final.graph.output] == ["score"]
    assert [v.name for v in final.graph.input if v.name != "labels" and v.name != "target"] == ["x"]
    assert op_types(final) == ["Gemm"]


def test_two_losses_have_two_scores():
    final = onnx_cbp.finalize(_two_losses())
    assert [v.name for v in final.graph.output] == ["score", "other"]
    assert [v.name for v in final.graph.input] == ["x"]


def _two_losses() -> onnx.ModelProto:
    return _scored("""hidden = Relu (score)  other = Gemm (hidden, square)
        first = SoftmaxCrossEntropyLoss (score, labels)
        d = Sub (other, target)  s = Mul (d, d)  second = ReduceMean <keepdims: int = 0> (s)
        loss = Add (first, second)""")


def test_a_result_that_is_a_number_is_no_loss():
    body = "s = Relu (score)  loss = ReduceMean <keepdims: int = 0> (s)"
    final = onnx_cbp.finalize(_scored(body))
    assert [v.name for v in final.graph.output] == ["loss"]


def test_a_rewritten_network_is_finalized_as_the_original_is():
    """Nothing reads the running statistics of either."""
    network = _with_values(random_network(2, 4), np.random.default_rng(0))
    rewritten = onnx_cbp.rewrite(network)
    assert "BatchNormTrainUpdate" in op_types(rewritten)
    shape = [d.dim_value or 5 for d in network.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    (want,), (got,) = (session(onnx_cbp.finalize(model), None).run(None, {"x": x}) for model in (network, rewritten))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nodes", ["y = Gemm (w, x)", "y = MatMul (w, x)", "z = Neg (x) y = MatMul (z, x)"])
def test_data_may_stand_where_a_weight_does(nodes):
    text = f"""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[3, 3] x) => (float[3, 3] y)
<float[3, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9}}>
{{ {nodes} }}
"""
    final = onnx_cbp.finalize(parse(text))
    assert [value.name for value in final.graph.input] == ["x"]
    assert op_types(final) == op_types(parse(text))


@pytest.mark.parametrize("op", ["RandomUniformLike", "RandomNormalLike"])
def test_what_makes_results_random_is_refused(op):
    text = f"""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3] x) => (float[N, 3] y, float[N, 3] z)
{{ noise = {op} (x)  y = Add (x, noise)  z = Neg (x) }}
"""
    with pytest.raises(OnnxCbpError, match="makes the result random"):
        onnx_cbp.finalize(parse(text))
    assert op_types(onnx_cbp.finalize(parse(text), outputs=["z"])) == ["Neg"]


ERRORS: dict[str, tuple[Callable[[], onnx.ModelProto], dict, list[str]]] = {
    "parameters": (lambda: parse(FORWARD), {}, ["'gamma'", "--checkpoint"]),
    "a training graph": (lambda: parse(TRAINING), {}, ["'gamma'", "--checkpoint"]),
    "a name": (lambda: parse(INFERENCE), {"outputs": ["nowhere"]}, ["'nowhere'", "'y'"]),
    "no statistics": (
        lambda: onnx_cbp.rewrite(without_running_statistics(random_network(2, 4))),
        {},
        ["cannot be finalized", "running statistics"],
    ),
}


@pytest.mark.parametrize(("make", "options", "said"), ERRORS.values(), ids=ERRORS)
def test_errors_are_one_line_that_names_the_remedy(make, options, said):
    model = make()
    with pytest.raises(OnnxCbpError) as caught:
        onnx_cbp.finalize(model, **options)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in said), str(caught.value)


def _half(opset: int) -> onnx.ModelProto:
    """A batch norm of float16 data, with a variance that float16 does not hold."""
    return onnx_cbp.rewrite(
        parse(f"""
<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
agraph (float16[N, 2, 3] x) => (float16[N, 2, 3] y, float[2] mean, float[2] var)
<float[2] scale = {{1, 2}}, float[2] B = {{0, 1}}, float[2] m = {{0, 10}}, float[2] v = {{1e6, 1e6}}>
{{
    s = Cast <to = 10> (scale)
    b = Cast <to = 10> (B)
    y, mean, var, saved, inv_std = com.microsoft.BatchNormInternal (x, s, b, m, v)
}}""")
    )


@pytest.mark.parametrize("opset", [14, 15])
def test_statistics_keep_a_type_that_the_data_have_not(opset):
    x = np.random.default_rng(0).normal(0, 1000, (5, 2, 3)).astype(np.float16)
    (y,) = session(onnx_cbp.finalize(_half(opset)), None).run(None, {"x": x})
    wanted = (x.astype(np.float64) - [[0], [10]]) / np.sqrt(1e6 + 1e-5) * [[1], [2]] + [[0], [1]]
    np.testing.assert_allclose(y, wanted, atol=2e-3)


def test_statistics_that_overflow_in_the_only_type_are_named():
    with pytest.raises(OnnxCbpError, match=r"^node '.*': FLOAT16, the type of 'x', does not hold .* 'v', .* opset 15"):
        onnx_cbp.finalize(_half(13))


def test_an_op_that_is_not_onnxs_is_named():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
agraph (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.BiasGelu (x, x) }
""")
    with pytest.raises(OnnxCbpError, match=r"com.microsoft.BiasGelu.*none of ONNX's ops"):
        onnx_cbp.finalize(model)


#: What the gradient builder's fusions make of a network, with the opset that it may stand in.
FUSED = {
    "Gelu": "y = com.microsoft.Gelu (x)",
    "FastGelu": "y = com.microsoft.FastGelu (x)",
    "FastGelu with bias": "y = com.microsoft.FastGelu (x, b)",
    "QuickGelu": "y = com.microsoft.QuickGelu (x)",
    "SiLU": "y = com.microsoft.QuickGelu <alpha: float = 1.0> (x)",
    "LayerNormalization": "y = LayerNormalization <axis: int = -1, epsilon: float = 0.01> (x, s, b)",
    "LayerNormalization over two axes": "y = LayerNormalization <axis: int = 1> (x, wide)",
}


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("body", FUSED.values(), ids=FUSED)
def test_what_the_gradient_builder_fuses_is_taken_apart(body, opset):
    model = onnx.parser.parse_model(f"""
<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
agraph (float[N, 4, 3] x) => (float[N, 4, 3] y)
<float[3] s = {{1.5, 0.5, -2.0}}, float[3] b = {{0.5, 0.0, 1.0}},
 float[4, 3] wide = {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 0.0, -1.0, 2.0}}> {{ {body} }}
""")
    final = onnx_cbp.finalize(model)
    _is_onnx(final)
    x = np.random.default_rng(0).normal(1, 2, (5, 4, 3)).astype(np.float32)
    (got,), (want,) = (session(m, None).run(None, {"x": x}) for m in (final, model))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


#: Two batch norms behind one another, and axes that are computed, as PyTorch's default exporter writes them.
CHAIN = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[N, 3, 4, 5] x) => (float[N, 3] y)
<float[3] s = {1.5, 0.5, -2.0}, float[3] b = {0.5, 0.0, 1.0}, float[3] m = {1.0, -2.0, 0.25},
 float[3] v = {0.5, 4.0, 1.0}>
{
    first, m1, v1 = BatchNormalization <training_mode: int = 1, epsilon: float = 0.001> (x, s, b, m, v)
    second, m2, v2 = BatchNormalization <training_mode: int = 1, epsilon: float = 0.002> (first, b, s, v, v)
    two = Constant <value = int64[2] {2, 3}> ()
    any = Constant <value_ints = [-1]> ()
    axes = Reshape (two, any)
    y = ReduceMean <keepdims: int = 0> (second, axes)
}
"""


@pytest.mark.parametrize("rewritten", [None, {}, {"one_pass": False}, {"freeze": "*"}], ids=str)
def test_batch_norms_behind_one_another(rewritten):
    model = parse(CHAIN)
    plain = parse(CHAIN)
    for node in plain.graph.node[:2]:
        del node.output[1:]
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("epsilon", 0.001 if node.output[0] == "first" else 0.002))
    if rewritten is not None:
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("m1", "v1", "m2", "v2")]
        model.graph.output.extend(outputs)
        model = onnx_cbp.rewrite(model, **rewritten)
    final = onnx_cbp.finalize(model, outputs=["y"])
    _is_onnx(final)
    x = np.random.default_rng(3).normal(0, 2, (2, 3, 4, 5)).astype(np.float32)
    want = in_double(plain, {"x": x})[0]
    np.testing.assert_allclose(session(final, None).run(None, {"x": x})[0], want, rtol=1e-5, atol=1e-5)


def test_axes_that_are_computed_leave_no_output_without_a_shape():
    model = parse(CHAIN)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    model.graph.input.append(helper.make_tensor_value_info("target", TensorProto.FLOAT, ["N", 3]))
    model.graph.node.extend(
        [
            helper.make_node("Sub", ["y", "target"], ["difference"]),
            helper.make_node("Mul", ["difference", "difference"], ["square"]),
            helper.make_node("ReduceMean", ["square"], ["loss"], keepdims=0),
        ]
    )
    final = onnx_cbp.finalize(model)
    assert [value.name for value in final.graph.output] == ["y"]
    assert len(final.graph.output[0].type.tensor_type.shape.dim) == 2
