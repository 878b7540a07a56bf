"""Finalizing batch norms that have no running statistics: they take those of the batch, and one line says so."""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from support.made_up.made_statistics import EPSILON, OTHERS, Graph, layer_norm
from support.made_up.made_statistics import C as CHANNELS
from support.models import parse
from support.ops import session

C = 3
#: Shape of x by rank, the channels at axis 1.
SHAPES = {2: (7, C), 3: (4, C, 5), 4: (2, C, 4, 3), 5: (2, C, 2, 3, 2)}
DTYPES = {"float": (TensorProto.FLOAT, np.float32), "double": (TensorProto.DOUBLE, np.float64)}


def _model(rank: int, opset: int, form: str, kind: str = "float") -> onnx.ModelProto:
    """A batch norm without running statistics: in arithmetic, or as PyTorch's older exporter writes it; and a Tanh."""
    elem, dtype = DTYPES[kind]
    axes = [axis for axis in range(rank) if axis != 1]
    vector = [C] if form == "op" else [1, C] + [1] * (rank - 2)
    constants = {
        "scale": np.array([1.5, 0.5, -2.0]).reshape(vector).astype(dtype),
        "B": np.array([0.5, 0.0, 1.0]).reshape(vector).astype(dtype),
        "epsilon": np.array(1e-3, dtype),
    }
    if opset >= 18:
        constants["axes"] = np.array(axes, np.int64)

    def mean(value: str, name: str, keepdims: int) -> onnx.NodeProto:
        if opset >= 18:
            return helper.make_node("ReduceMean", [value, "axes"], [name], keepdims=keepdims)
        return helper.make_node("ReduceMean", [value], [name], axes=axes, keepdims=keepdims)

    nodes = [
        mean("x", "wide_mean", 1),
        helper.make_node("Sub", ["x", "wide_mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["square"]),
        mean("square", "var", 0 if form == "op" else 1),
    ]
    if form == "op":
        nodes.append(mean("x", "mean", 0))
        inputs, outputs = ["x", "scale", "B", "mean", "var"], ["n", "new_mean", "new_var"]
        nodes.append(helper.make_node("BatchNormalization", inputs, outputs, "norm", epsilon=1e-3, training_mode=1))
    else:
        nodes += [
            helper.make_node("Add", ["var", "epsilon"], ["shifted"]),
            helper.make_node("Sqrt", ["shifted"], ["std"]),
            helper.make_node("Div", ["centred", "std"], ["normal"]),
            helper.make_node("Mul", ["normal", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "B"], ["n"], "norm"),
        ]
    nodes.append(helper.make_node("Tanh", ["n"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, ["N", *SHAPES[rank][1:]])],
        [helper.make_tensor_value_info("y", elem, ["N", *SHAPES[rank][1:]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _expected(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    along = (1, C, *[1] * (x.ndim - 2))
    scale, B = np.array([1.5, 0.5, -2.0]).reshape(along), np.array([0.5, 0.0, 1.0]).reshape(along)
    centred = x - x.mean(axes, keepdims=True)
    return np.tanh(centred / np.sqrt(x.var(axes, keepdims=True) + 1e-3) * scale + B)


def _assert_by_batch(model: onnx.ModelProto, caplog: pytest.LogCaptureFixture, dtype: type, shape: tuple) -> None:
    found: list[onnx_cbp.Finalized] = []
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        final = onnx_cbp.finalize(model, keep_batch_statistics=True, report=found.append)
    onnx.checker.check_model(final, full_check=True)
    assert {node.domain for node in final.graph.node} == {""}
    assert not any(a.name == "training_mode" for node in final.graph.node for a in node.attribute)
    (name,) = found[0].by_batch
    assert name.startswith("norm")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "onnx_cbp"]
    assert f"'{name}'" in said
    assert "without running statistics" in said
    x = np.random.default_rng(0).normal(1.0, 2.0, shape).astype(dtype)
    got = session(final, None).run(None, {"x": x})[0]
    assert got.dtype == dtype
    np.testing.assert_allclose(got, _expected(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rewritten", [None, {}, {"one_pass": False}], ids=["exported", "one op", "steps"])
@pytest.mark.parametrize("form", ["arithmetic", "op"])
@pytest.mark.parametrize(("rank", "opset"), [(2, 15), (3, 18), (4, 17), (5, 14)])
def test_they_take_those_of_the_batch(rank, opset, form, rewritten, caplog):
    model = _model(rank, opset, form)
    if rewritten is not None:
        model = onnx_cbp.rewrite(model, **rewritten)
        assert any(node.domain == "onnx_cbp" for node in model.graph.node)
    _assert_by_batch(model, caplog, np.float32, SHAPES[rank])


@pytest.mark.parametrize("rewritten", [False, True])
def test_in_double(rewritten, caplog):
    model = _model(4, 17, "arithmetic", "double")
    _assert_by_batch(onnx_cbp.rewrite(model) if rewritten else model, caplog, np.float64, SHAPES[4])


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("producer", ["", "tf2onnx", "pytorch"])
def test_only_those_of_pytorch_are_kept_unasked(producer, rewritten):
    model = _model(4, 17, "op")
    model.producer_name = producer
    if rewritten:
        model = onnx_cbp.rewrite(model)
    if producer == "pytorch":
        onnx_cbp.finalize(model)
        return
    with pytest.raises(onnx_cbp.OnnxCbpError) as caught:
        onnx_cbp.finalize(model)
    assert "node 'norm" in str(caught.value)
    assert "--keep-batch-statistics" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_that_the_outputs_do_not_need_is_not_named(caplog):
    model = _model(4, 17, "arithmetic")
    model.graph.node.append(helper.make_node("Relu", ["x"], ["other"]))
    found: list[onnx_cbp.Finalized] = []
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        onnx_cbp.finalize(model, outputs="other", report=found.append)
    assert found[0].by_batch == ()
    assert not [record for record in caplog.records if record.name == "onnx_cbp"]


def test_those_of_other_replicas_are_refused():
    model = onnx_cbp.rewrite(_model(4, 17, "arithmetic"), synchronize=True)
    with pytest.raises(onnx_cbp.OnnxCbpError, match="take the model that it was rewritten from"):
        onnx_cbp.finalize(model)


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "onnx_cbp"]


def _in_arithmetic(g: Graph, X: str, mean: str, var: str) -> str:
    shape = g.integers([1, CHANNELS, *[1] * (g.rank - 2)])
    std = g.op("Sqrt", g.op("Add", g.op("Reshape", var, shape), g.constant(EPSILON)))
    return g.op("Div", g.op("Sub", X, g.op("Reshape", mean, shape)), std)


@pytest.mark.parametrize("statistics", OTHERS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("normalise", [Graph.batch_norm, _in_arithmetic], ids=["op", "arithmetic"])
@pytest.mark.parametrize(("rank", "opset", "batch"), [(4, 17, "N"), (3, 12, 6), (5, 18, "N")])
def test_statistics_of_samples_that_no_form_is_known_of_are_named(statistics, normalise, rank, opset, batch, caplog):
    g = Graph(rank, opset, batch)
    X = g.op("Tanh", "x")
    model = g.model(normalise(g, X, *statistics(g, X)))
    x = np.random.default_rng(0).normal(1.0, 2.0, (6, *g.shape[1:])).astype(np.float32)
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        final = onnx_cbp.finalize(model)
    np.testing.assert_array_equal(session(final, None).run(None, {"x": x}), session(model, None).run(None, {"x": x}))
    (said,) = _said(caplog)
    assert "takes values together along the first axis" in said
    assert "(Reduce" in said
    assert "\n" not in said


@pytest.mark.parametrize("op_type", ["MeanVarianceNormalization", "InstanceNormalization"])
def test_ops_that_normalise_over_samples_are_named(op_type, caplog):
    g = Graph()
    vectors = [g.constant(np.ones(CHANNELS)), g.constant(np.zeros(CHANNELS))]
    if op_type == "InstanceNormalization":  # of one sample that has all of them
        flat = g.op("Reshape", g.op("Transpose", "x", perm=[1, 0, 2, 3]), g.integers([1, CHANNELS, -1]))
        wide = g.op("Reshape", g.op(op_type, flat, *vectors), g.integers([CHANNELS, -1, *g.shape[2:]]))
        model = g.model(g.op("Transpose", wide, perm=[1, 0, 2, 3]))
    else:
        g.initializers.clear()
        model = g.model(g.op(op_type, "x", axes=[0, 2, 3]))
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        onnx_cbp.finalize(model)
    (said,) = _said(caplog)
    assert f"({op_type})" in said


def _mean_of_all(g: Graph) -> str:
    return g.mean("x", [0, 1, 2, 3], 1)


def _of_each_sample(g: Graph) -> str:
    return g.op("Sub", "x", g.mean("x", [1, 2, 3], 1))


@pytest.mark.parametrize("apart", [_mean_of_all, _of_each_sample, lambda g: layer_norm(g, "x")])
def test_what_keeps_samples_apart_is_not_named(apart, caplog):
    g = Graph()
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        onnx_cbp.finalize(g.model(apart(g)))
        one = Graph(batch=1)
        onnx_cbp.finalize(one.model(one.op("Sub", "x", one.mean("x", [0, 2, 3], 1))))
    assert _said(caplog) == []


@pytest.mark.parametrize("declared", ["float h", "float[3] h", "double h"])
def test_samples_that_lie_in_axes_that_a_value_is_declared_without(declared):
    """What the graph says of its output is not so; nothing is taken for granted of it."""
    model = parse(
        f"""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[N, 3] x) => (float[N, 3] y, {declared})
        <float e = {{0.001}}, float[3, 3] weight = {{1, 0, 0, 0, 1, 0, 0, 0, 1}}, float[3] one = {{1, 1, 1}}>
        {{
            f = BatchNormalization (x, one, one, one, one)
            h = Gemm <transB = 1> (f, weight)
            m = ReduceMean <axes = [0], keepdims = 1> (h)
            d = Sub (h, m)
            s = Mul (d, d)
            v = ReduceMean <axes = [0], keepdims = 1> (s)
            w = Add (v, e)
            r = Sqrt (w)
            y = Div (d, r)
        }}
        """
    )
    with contextlib.suppress(onnx_cbp.OnnxCbpError):
        onnx_cbp.finalize(model)
    onnx_cbp.inspect(model)
