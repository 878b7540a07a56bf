"""New running statistics where the old ones are no initializer of one layer: shape, type and readers stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from onnx_cbp import OnnxCbpError
from support.models import parse
from support.ops import session

CHANNELS = 3
EPSILON = 1e-3
TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16}
#: Shape of the statistics, axis of the channels of X, sizes of X: the last is CHANNELS too, where a wrong axis fits.
LAYOUTS = {
    "NCHW": ((1, 3, 1, 1), 1, ["N", 3, 4, 3]),
    "NCHW, rank 3": ((3, 1, 1), 1, ["N", 3, 2, 3]),
    "NCL": ((1, 3, 1), 1, ["N", 3, 3]),
    "NHWC": ((3,), 3, ["N", 3, 2, 3]),
}


def _initializer(array, name):
    return numpy_helper.from_array(np.asarray(array), name)


def _made(kind, name, value, dtype, shape):
    """Nodes and initializers that make a statistic without a declared shape."""
    array = np.full(shape, value, dtype)
    axis = shape.index(CHANNELS)
    raw, more = f"{name}_raw", f"{name}_more"

    def node(op_type, *inputs, **attributes):
        return helper.make_node(op_type, list(inputs), [name], **attributes)

    if kind == "Constant":
        return [node("Constant", value=numpy_helper.from_array(array))], []
    if kind in ("Max", "Clip"):
        return [node(kind, raw, more)], [_initializer(array, raw), _initializer(np.zeros((), dtype), more)]
    if kind == "Slice":
        starts, ends, axes = (f"{name}_{part}" for part in ("starts", "ends", "axes"))
        bounds = [_initializer([value], part) for value, part in ((0, starts), (CHANNELS, ends), (axis, axes))]
        return [node("Slice", raw, starts, ends, axes)], [_initializer(np.repeat(array, 2, axis), raw), *bounds]
    if kind == "Expand":
        return [node("Expand", raw, more)], [
            _initializer(np.full((1,) * len(shape), value, dtype), raw),
            _initializer(shape, more),
        ]
    if kind == "Concat":
        parts = [_initializer(part, f"{raw}{number}") for number, part in enumerate(np.split(array, [1], axis))]
        return [node("Concat", *(part.name for part in parts), axis=axis)], parts
    if kind == "Cast":
        wider = np.float64 if dtype != np.float64 else np.float32
        return [node("Cast", raw, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))], [
            _initializer(array.astype(wider), raw)
        ]
    if kind == "Cast of integers":
        whole = np.ceil(array).astype(np.int64)
        return [node("Cast", raw, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))], [_initializer(whole, raw)]
    assert kind in ("Relu", "Exp")
    return [node(kind, raw)], [_initializer(np.log(array) if kind == "Exp" else array, raw)]


KINDS = ("Constant", "Max", "Clip", "Relu", "Slice", "Expand", "Concat", "Exp", "Cast", "Cast of integers")


def _model(kind, dtype=np.float32, layout="NCHW", epsilon=()):
    """(x - mean) / sqrt(var + epsilon) * 2 + 1."""
    shape, _, sizes = LAYOUTS[layout]
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["d"]),
        helper.make_node("Add", ["var", "epsilon"], ["shifted"]),
        helper.make_node("Sqrt", ["shifted"], ["std"]),
        helper.make_node("Div", ["d", "std"], ["n"]),
        helper.make_node("Mul", ["n", "scale"], ["t"]),
        helper.make_node("Add", ["t", "bias"], ["y"]),
    ]
    made = [_made(kind, name, value, dtype, shape) for name, value in (("mean", 0.5), ("var", 2.0))]
    nodes = [*epsilon, *(node for some, _ in made for node in some), *nodes]
    initializers = [tensor for _, some in made for tensor in some]
    initializers += [_initializer(np.full(shape, value, dtype), name) for name, value in (("scale", 2), ("bias", 1))]
    initializers.append(
        _initializer(np.asarray(EPSILON, np.float32 if epsilon else dtype), "epsilon_raw" if epsilon else "epsilon")
    )
    x, y = (helper.make_tensor_value_info(name, number, sizes) for name in "xy")
    graph = helper.make_graph(nodes, kind, [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _data(dtype=np.float32, layout="NCHW", seed=0):
    _, axis, sizes = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, *(size for place, size in enumerate(sizes[1:], 1) if place != axis), 3)) * [1, 3, 9] + [
        0,
        5,
        -7,
    ]
    return np.moveaxis(x, -1, axis).astype(dtype)


def _normalised(x, layout="NCHW"):
    _, axis, _ = LAYOUTS[layout]
    others = tuple(place for place in range(x.ndim) if place != axis)
    x = x.astype(np.float64)
    return (x - x.mean(others, keepdims=True)) / np.sqrt(x.var(others, keepdims=True) + EPSILON) * 2 + 1


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        ("float", "NCHW"),
        ("float", "NCHW, rank 3"),
        ("float", "NCL"),
        ("float", "NHWC"),
        ("double", "NCHW"),
        pytest.param("float16", "NCL", marks=pytest.mark.native),  # Python ops have float and double
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_normalises_as_before_by_the_new_statistics(kind, dtype, layout):
    x = _data(TYPES[dtype], layout)
    got = onnx_cbp.update_bn(_model(kind, TYPES[dtype], layout), [x], unbiased_running_var=False)
    onnx.checker.check_model(got, full_check=True)
    (y,) = session(got, None).run(None, {"x": x})
    assert y.dtype == x.dtype
    tolerance = {"float": 1e-5, "double": 2e-6, "float16": 2e-2}[dtype]  # a Cast's tensor of float keeps float
    np.testing.assert_allclose(y, _normalised(x, layout), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_they_train_as_vectors(kind, layout):
    """The running statistics of arithmetic that is made to train are initializers [C], which artifacts can keep."""
    model = onnx_cbp.rewrite(_model(kind, layout=layout), train="*", one_pass=False)
    onnx.checker.check_model(model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    steps = [node for node in model.graph.node if node.op_type == "RunningStats"]
    found = {name: values[step.input[0]] for name, step in zip(("mean", "var"), steps, strict=True)}
    whole = kind == "Cast of integers"
    np.testing.assert_allclose(found["mean"], np.full(CHANNELS, 1.0 if whole else 0.5), rtol=1e-6)
    np.testing.assert_allclose(found["var"], np.full(CHANNELS, 2.0), rtol=1e-6)
    x = _data(layout=layout)
    np.testing.assert_allclose(session(model, "auto").run(None, {"x": x})[0], _normalised(x, layout), atol=1e-5)


_EPSILONS = {
    "Cast": [helper.make_node("Cast", ["epsilon_raw"], ["epsilon"], to=TensorProto.DOUBLE)],
    "CastLike": [helper.make_node("CastLike", ["epsilon_raw", "x"], ["epsilon"])],
    "Reshape": [
        helper.make_node("Cast", ["epsilon_raw"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Constant", [], ["one"], value_ints=[1, 1]),
        helper.make_node("Reshape", ["wide", "one"], ["epsilon"]),
    ],
}


@pytest.mark.parametrize("kind", _EPSILONS)
def test_an_epsilon_in_another_type_is_one(kind):
    model = _model("Relu", np.float64, epsilon=_EPSILONS[kind])
    x = _data(np.float64) * 1e-2  # where epsilon counts
    got = onnx_cbp.update_bn(model, [x], unbiased_running_var=False)
    np.testing.assert_allclose(session(got, None).run(None, {"x": x})[0], _normalised(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [[], [1], [1, 1, 1, 1]])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_an_epsilon_that_is_fed_is_refused(layout, shape):
    model = _model("Constant", layout=layout)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "epsilon"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.input.append(helper.make_tensor_value_info("epsilon", TensorProto.FLOAT, shape))
    reason = "its epsilon 'epsilon' is no constant: make it an initializer"
    with pytest.raises(OnnxCbpError, match=reason):
        onnx_cbp.update_bn(model, [{"x": _data(layout=layout), "epsilon": np.full(shape, EPSILON, np.float32)}])
    with pytest.raises(OnnxCbpError, match=reason):
        onnx_cbp.rewrite(model, train="*")
    assert reason in onnx_cbp.inspect(model)[0].explanation


_OP = """
<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N, 3, 3] x) => (float[N, 3, 3] y)
<float[3] scale = {{2, 2, 2}}, float[3] bias = {{1, 1, 1}}, float[3] m = {{1, 2, 3}}, float[3] v = {{4, 5, 6}}>
{{
    mean = {mean}
    var = {var}
    y = BatchNormalization <epsilon: float = 0.001> (x, scale, bias, mean, var)
}}
"""


@pytest.mark.parametrize("opset", [9, 15, 17])
@pytest.mark.parametrize(
    ("mean", "var"), [("Neg (m)", "Relu (v)"), ("Abs (m)", "Max (v, m)"), ("Identity (m)", "Exp (v)")]
)
def test_of_an_op_they_are_vectors(opset, mean, var):
    model = parse(_OP.format(opset=opset, mean=mean, var=var))
    x = _data(layout="NCL")
    got = onnx_cbp.update_bn(model, [x], unbiased_running_var=False)
    np.testing.assert_allclose(session(got, None).run(None, {"x": x})[0], _normalised(x, "NCL"), rtol=1e-5, atol=1e-5)
    trained = onnx_cbp.rewrite(model, train="*")
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in trained.graph.initializer}
    (node,) = (node for node in trained.graph.node if node.op_type == "BatchNormTrainUpdate")
    assert all(values[name].shape == (CHANNELS,) for name in node.input[3:5])


def test_what_is_computed_of_what_is_fed_cannot_train():
    text = _OP.format(opset=17, mean="Neg (m)", var="ReduceMax <axes: ints = [0, 2], keepdims: int = 0> (z)")
    model = parse(text.replace("] x)", "] x, float[N, 3, 3] z)"))
    with pytest.raises(
        OnnxCbpError,
        match=r"cannot be made to train: its .* '(mean|var)' is (made in the graph|computed of what is fed)",
    ):
        onnx_cbp.rewrite(model, train="*")


_TWO = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2, 3] x) => (float[N, 2, 3] y)
<float[2, 1] m = {1, 2}, float[2, 1] v = {2, 1}, float[2, 1] g = {3, 4}, float[2, 1] b = {5, 6},
 float[2, 1] h = {3, 4}, float epsilon = {0.001}>
{
    shifted = Add (v, epsilon)  std = Sqrt (shifted)
    d = Sub (x, m)  n = Div (d, std)  t = Mul (n, g)  z = Add (t, b)
    r = Relu (z)
    e = Sub (r, m)  o = Div (e, std)  u = Mul (o, h)  y = Add (u, b)
}"""


def test_calls_of_one_module_may_share_the_root():
    """Two calls of a module of which an exporter computed the root once, with scales that are equal."""
    x = np.random.default_rng(0).normal(3, 2, (6, 2, 3)).astype(np.float32)
    got = onnx_cbp.update_bn(parse(_TWO), [x], unbiased_running_var=False)
    column = (slice(None), np.newaxis)

    def normalised(a):
        mean, var = a.mean((0, 2), keepdims=True), a.var((0, 2), keepdims=True)
        return (a - mean) / np.sqrt(var + EPSILON) * np.array([3, 4])[column] + np.array([5, 6])[column], mean, var

    first, *one = normalised(x.astype(np.float64))
    _, *two = normalised(np.maximum(first, 0))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in got.graph.initializer}
    for name, parts in zip("mv", zip(one, two, strict=True), strict=True):
        np.testing.assert_allclose(values[name], np.mean(parts, axis=0)[0], rtol=1e-5)
    assert [(n.op_type, n.input, n.output) for n in got.graph.node] == [
        (n.op_type, n.input, n.output) for n in parse(_TWO).graph.node
    ]


def test_modules_that_share_the_root_are_refused():
    model = parse(_TWO.replace("h = {3, 4}", "h = {5, 6}"))
    x = np.random.default_rng(0).normal(3, 2, (6, 2, 3)).astype(np.float32)
    with pytest.raises(
        OnnxCbpError, match=r"node 'z' .* makes '(shifted|std)' of the running_var 'v', and not it alone"
    ):
        onnx_cbp.update_bn(model, [x])


@pytest.mark.parametrize("reader", ["w = Mul (y, m)", "k = Reshape (m, sizes) w = Mul (y, k)"])
def test_another_reader_of_a_statistic_keeps_the_old_one(reader):
    """As a network that takes its normalisation back has it."""
    text = (
        _TWO[: _TWO.index("    r = Relu")]
        .replace("z = Add (t, b)", "y = Add (t, b)")
        .replace("=> (float[N, 2, 3] y)", "=> (float[N, 2, 3] w)")
    )
    text = text.replace("float epsilon", "int64[2] sizes = {2, 1}, float epsilon") + reader + "\n}"
    text = text.replace("d = Sub (x, m)", "q = Reshape (m, sizes) d = Sub (x, q)") if "Reshape" in reader else text
    x = np.random.default_rng(0).normal(3, 2, (6, 2, 3)).astype(np.float32)
    got = onnx_cbp.update_bn(parse(text), [x], unbiased_running_var=False)
    column = (slice(None), np.newaxis)
    mean, var = x.mean((0, 2), dtype=np.float64)[column], x.var((0, 2), dtype=np.float64)[column]
    want = ((x - mean) / np.sqrt(var + EPSILON) * np.array([3, 4])[column] + np.array([5, 6])[column]) * np.array(
        [1, 2]
    )[column]
    np.testing.assert_allclose(session(got, None).run(None, {"x": x})[0], want, rtol=1e-5, atol=1e-5)


def test_one_tensor_as_mean_and_as_variance_is_refused():
    text = (
        _TWO[: _TWO.index("    r = Relu")]
        .replace("z = Add (t, b)", "y = Add (t, b)")
        .replace("Sub (x, m)", "Sub (x, v)")
        + "}"
    )
    with pytest.raises(OnnxCbpError, match="reads 'v' as running mean and as running variance: make two tensors"):
        onnx_cbp.update_bn(parse(text), [np.ones((6, 2, 3), np.float32)])


@pytest.mark.native
def test_a_variance_that_its_type_does_not_hold_is_named():
    x = (_data(np.float32) * 100).astype(np.float16)  # of 8e5 in one channel
    model = _model("Relu", np.float16)
    with pytest.raises(OnnxCbpError, match=r"'y.running_var' would be 7.*e.05, which float16 does not hold"):
        onnx_cbp.update_bn(model, [x])


def test_a_frozen_one_that_was_rewritten_is_taken_too():
    """Its gradient follows it: both read one tensor."""
    model = parse("""
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 2] x, float[N, 2] dy) => (float[N, 2] y, float[N, 2] dx, float[2] dg)
<float[2] g = {1, 2}, float[2] b = {3, 4}, float[2] m = {5, 6}, float[2] v = {7, 8}>
{
    y, a, c, saved_mean, saved_inv_std = com.microsoft.BatchNormInternal (x, g, b, m, v)
    dx, dg, db = com.microsoft.BatchNormalizationGrad (dy, x, g, saved_mean, saved_inv_std)
}""")
    x = np.random.default_rng(0).normal(3, 2, (6, 2)).astype(np.float32)
    got = onnx_cbp.update_bn(onnx_cbp.rewrite(model, freeze="*"), [x])
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in got.graph.initializer}
    np.testing.assert_allclose(values["m"], x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(values["v"], x.var(axis=0, ddof=1), rtol=1e-5)
    y, dx, _ = session(got, "auto").run(None, {"x": x, "dy": np.ones_like(x)})
    std = np.sqrt(x.var(axis=0, ddof=1) + 1e-5)
    np.testing.assert_allclose(y, (x - x.mean(axis=0)) / std * [1, 2] + [3, 4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, np.broadcast_to([1, 2] / std, x.shape), rtol=1e-5)
