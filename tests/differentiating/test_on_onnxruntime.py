"""Gradients in the forms that ONNX Runtime has kernels for, and for the values that it really computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnx_cbp.graph_passes.differentiating import DifferentiatePass
from onnx_cbp.ir_models import to_ir, to_proto
from support.gradients.gradient_driver import newest_opset

NEWEST = newest_opset()


def model(
    inputs: str, nodes: str, opset: int = 17, functions: str = "", outputs: str = "", **constants: np.ndarray
) -> onnx.ModelProto:
    """A model with a loss y, if no other outputs are given, of the type of its first input."""
    outputs = outputs or f"{inputs.partition('[')[0]} y"
    made = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}, "l" : 1]> main ({inputs}) => ({outputs})
        {{ {nodes} }} {functions}"""
    )
    made.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return onnx.shape_inference.infer_shapes(made)


def with_gradients(made: onnx.ModelProto, by: list[str], loss: str | None = None) -> onnx.ModelProto:
    ir_model = to_ir(made)
    DifferentiatePass(loss or made.graph.output[0].name, by)(ir_model)
    return to_proto(ir_model, made)


def run(made: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    onnx.checker.check_model(made)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in made.graph.output], session.run(None, feeds), strict=True))


def test_a_parameter_may_begin_at_a_special_value():
    """With the exponent 2 a power has a simpler gradient, and 0 and 6 are ReLU6's bounds: not if these train."""
    nodes = "a = Pow (x, p) b = Clip (a, low, high) y = ReduceSum <keepdims = 0> (b)"
    made = model("double[3] x", nodes, p=np.array(2.0), low=np.array(0.0), high=np.array(6.0))
    trained = with_gradients(made, ["x", "p", "high"])
    x = np.array([0.5, 2.0, 3.0])
    for exponent, high in ((2.0, 6.0), (2.5, 6.0), (2.5, 7.0), (1.0, 1.0)):
        for tensor in trained.graph.initializer:
            if tensor.name in ("p", "high"):
                new = np.array({"p": exponent, "high": high}[tensor.name])
                tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
        got = run(trained, x=x)
        inside = x**exponent <= high
        np.testing.assert_allclose(got["x_grad"], inside * exponent * x ** (exponent - 1))
        np.testing.assert_allclose(got["p_grad"], (inside * x**exponent * np.log(x)).sum())
        np.testing.assert_allclose(got["high_grad"], (~inside).sum())


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("scales", [(1, 1, 1.1, 1.1), (1, 1, 1.1, 1), (1, 1, 1.3, 0.7)], ids=str)
def test_an_axis_that_keeps_its_size_is_resampled_with_the_others(scales, mode):
    shape = (1, 1, 9, 12)
    after = [int(size * scale) for size, scale in zip(shape, scales, strict=True)]
    k = np.random.default_rng(0).standard_normal(after).astype(np.float32)
    nodes = f'r = Resize <mode = "{mode}"> (x, , s) t = Mul (r, k) y = ReduceSum <keepdims = 0> (t)'
    made = model("float[1, 1, 9, 12] x", nodes, s=np.float32(scales), k=k)
    got = run(with_gradients(made, ["x"]), x=np.zeros(shape, np.float32))["x_grad"]
    want = np.zeros(shape, np.float32)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for place in np.ndindex(shape):
        one = np.zeros(shape, np.float32)
        one[place] = 1
        (want[place],) = session.run(["y"], {"x": one})
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "ReduceMean <axes = [2, 3]>"])
@pytest.mark.parametrize("size", ["256", "H"])
def test_a_mean_of_more_elements_than_float16_counts(op, size):
    made = model(
        f"float[1, 1, {size}, 256] x",
        f"a = Cast <to = 10> (x) b = {op} (a) c = Cast <to = 1> (b) y = ReduceSum <keepdims = 0> (c)",
    )
    got = run(with_gradients(made, ["x"]), x=np.ones((1, 1, 256, 256), np.float32))["x_grad"]
    np.testing.assert_allclose(got, 1 / 256**2, rtol=0.02)  # close to the smallest numbers that float16 has


def test_a_product_with_zeros_is_differentiated_again():
    made = model("float[3] x, float[3] v", "y = ReduceProd <keepdims = 0> (x)")
    once = to_ir(with_gradients(made, ["x"]))
    gradient = next(value for value in once.graph.outputs if value.name == "x_grad")
    product = ir.node("Mul", [gradient, once.graph.inputs[1]], name="product")
    total = ir.node("ReduceSum", [product.outputs[0]], {"keepdims": 0}, name="total")
    for value, name in ((product.outputs[0], "product"), (total.outputs[0], "total")):
        value.name, value.type = name, gradient.type
    product.outputs[0].shape, total.outputs[0].shape = ir.Shape((3,)), ir.Shape(())
    once.graph.extend([product, total])
    twice = with_gradients(to_proto(once, made), ["x"], "total")
    v = np.float32([1, 10, 100])
    for x in ([0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [5.0, 2.0, 3.0]):
        a, b, c = x
        want = [v[1] * c + v[2] * b, v[0] * c + v[2] * a, v[0] * b + v[1] * a]
        results = run(twice, x=np.float32(x), v=v)
        (got,) = (value for name, value in results.items() if name.startswith("x_grad_"))
        np.testing.assert_allclose(got, want)
        np.testing.assert_allclose(results["x_grad"], [b * c, a * c, a * b])


def test_bounds_in_the_wrong_order():
    made = model("double[4] x, double low, double high", "a = Clip (x, low, high) y = ReduceSum <keepdims = 0> (a)")
    trained = with_gradients(made, ["x", "low", "high"])
    x = np.array([1.0, 2.0, 2.5, 4.0])
    got = run(trained, x=x, low=np.array(3.0), high=np.array(2.0))
    assert (got["y"], got["low_grad"], got["high_grad"]) == (8, 0, 4)
    np.testing.assert_array_equal(got["x_grad"], np.zeros(4))
    got = run(trained, x=x, low=np.array(2.0), high=np.array(3.0))
    assert (got["low_grad"], got["high_grad"]) == (1, 1)
    np.testing.assert_array_equal(got["x_grad"], [0, 1, 1, 0])


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_indices_of_32_bits(kind, opset):
    made = model(
        f"{kind}[5, 2] x, int32[N] i", "a = Gather (x, i) b = Mul (a, a) y = ReduceSum <keepdims = 0> (b)", opset
    )
    dtype = np.float32 if kind == "float" else np.float64
    x = np.arange(10, dtype=dtype).reshape(5, 2)
    got = run(with_gradients(made, ["x"]), x=x, i=np.array([1, 4, 1, -2], np.int32))["x_grad"]
    np.testing.assert_allclose(got, 2 * x * np.array([0, 2, 0, 1, 1])[:, None])


def test_a_function_that_compares():
    function = """<opset_import: ["" : 17], domain: "l"> F (a, z) => (b)
    { c = Greater (a, z) n = Neg (a) b = Where (c, a, n) }"""
    made = model("double[4] x, double z", "a = l.F (x, z) y = ReduceSum <keepdims = 0> (a)", functions=function)
    got = run(with_gradients(made, ["x"]), x=np.array([-1.0, 0.5, 2.0, 3.0]), z=np.array(1.0))["x_grad"]
    np.testing.assert_array_equal(got, [-1, -1, 1, 1])


@pytest.mark.parametrize("reads", ["Y", "Mean", "InvStdDev", "all"])
def test_what_a_layer_normalization_saves_has_gradients(reads):
    of = {"Y": "a = Mul (Y, v)", "Mean": "a = Mul (Mean, v)", "InvStdDev": "a = Mul (InvStdDev, v)"}
    of["all"] = "p = Mul (Y, v) q = Mul (Mean, InvStdDev) a = Add (p, q)"
    nodes = f"Y, Mean, InvStdDev = LayerNormalization (x, s, b) {of[reads]} y = ReduceSum <keepdims = 0> (a)"
    made = model("float[N, 6] x, float[6] s, float[6] b, float[N, 6] v", nodes)
    rng = np.random.default_rng(1)
    x, v = rng.standard_normal((2, 3, 6))
    s, b = rng.standard_normal((2, 6))
    feeds = {"x": x, "s": s, "b": b, "v": v}
    got = run(with_gradients(made, ["x"]), **{name: each.astype(np.float32) for name, each in feeds.items()})

    def loss(x):
        mean, inv = x.mean(1, keepdims=True), 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        y = s * (x - mean) * inv + b
        return {"Y": y * v, "Mean": mean * v, "InvStdDev": inv * v, "all": y * v + mean * inv}[reads].sum()

    want = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        want[place] = (loss(x + step) - loss(x - step)) / 2e-6
    np.testing.assert_allclose(got["x_grad"], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_losses_in_double(loss):
    made = model("double[N, 3] x, int64[N] labels", f"y = {loss} (x, labels)")
    x = np.random.default_rng(0).standard_normal((4, 3))
    labels = np.array([0, 2, 1, 1])
    got = run(with_gradients(made, ["x"]), x=x, labels=labels)["x_grad"]
    shares = np.exp(x) / np.exp(x).sum(1, keepdims=True) if loss.startswith("Soft") else 0
    np.testing.assert_allclose(got, (shares - np.eye(3)[labels]) / 4)


@pytest.mark.parametrize(
    "node", ["MaxPool <kernel_shape = [3, 3]> (h)", "Gather <axis = 3> (h, i)", "GatherElements <axis = 3> (h, j)"]
)
def test_what_is_added_up_in_float16(node):
    nodes = f"h = Cast <to = 10> (x) a = {node} b = Cast <to = 1> (a) y = ReduceSum <keepdims = 0> (b)"
    made = model("float[N, 1, 4, 4] x, int64[K] i, int64[N, 1, 4, 3] j", nodes)
    x = np.random.default_rng(0).permutation(16).reshape(1, 1, 4, 4).astype(np.float32)
    j = np.array([0, 3, 3]).reshape(1, 1, 1, 3).repeat(4, 2)
    got = run(with_gradients(made, ["x"]), x=x, i=np.array([0, 3, 3]), j=j)["x_grad"]
    want = np.zeros((4, 4))
    if node.startswith("MaxPool"):
        for row, column in np.ndindex(2, 2):
            window = x[0, 0, row : row + 3, column : column + 3]
            place = np.unravel_index(window.argmax(), (3, 3))
            want[place[0] + row, place[1] + column] += 1
    else:
        want[:, [0, 3]] = 1, 2
    np.testing.assert_array_equal(got[0, 0], want)


EMPTY = {
    "GridSample": ("float[N, 2, 4, 5] x, float[N, P, Q, 2] g", "a = GridSample (x, g)", {"g": (0, 3, 2, 2)}),
    "Conv": (
        "float[N, 4, 6, 6] x, float[6, 2, 3, 3] w",
        "a = Conv <group = 2, dilations = [2, 2]> (x, w)",
        {"w": (6, 2, 3, 3)},
    ),
    "Tile": ("float[N, 3] x, int64[2] r", "a = Tile (x, r)", {}),
    "Slice": ("float[N, 3, 4] x", "a = Slice (x, i, e, axes, two)", {}),
}


@pytest.mark.parametrize("op", EMPTY)
def test_no_samples(op):
    if op == "Conv" and tuple(map(int, ort.__version__.split(".")[:2])) < (1, 20):
        pytest.skip("the Conv of ONNX Runtime 1.19 and older does not end where there are no samples")
    inputs, nodes, more = EMPTY[op]
    slices = {"i": np.array([0]), "e": np.array([9]), "axes": np.array([1]), "two": np.array([2])}
    made = model(inputs, f"{nodes} y = ReduceSum <keepdims = 0> (a)", 16, **(slices if op == "Slice" else {}))
    by = ["x", *more]
    feeds = {name: np.ones(shape, np.float32) for name, shape in more.items()}
    feeds |= {"r": np.array([1, 2])} if op == "Tile" else {}
    shape = [0 if size == "N" else int(size) for size in inputs.partition("[")[2].partition("]")[0].split(", ")]
    got = run(with_gradients(made, by), x=np.zeros(shape, np.float32), **feeds)
    assert got["x_grad"].shape == tuple(shape)
    for name in more:
        assert got[f"{name}_grad"].shape == feeds[name].shape
        assert not got[f"{name}_grad"].any()


def test_a_part_without_a_name():
    nodes = "a, , b = Split <axis = 1> (x, s) c = Concat <axis = 1> (a, b, b) y = ReduceSum <keepdims = 0> (c)"
    made = model("float[N, 6] x", nodes, s=np.array([1, 3, 2]))
    got = run(with_gradients(made, ["x"]), x=np.ones((2, 6), np.float32))["x_grad"]
    np.testing.assert_array_equal(got, [[1, 0, 0, 0, 2, 2]] * 2)
