"""Models that say wrong or odd things, through the verbs of training: right gradients, or one line, and soon."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.graph_passes import DecomposePass, ExplicitPadsPass
from onnx_cbp.graph_passes.differentiating import DifferentiatePass
from onnx_cbp.training import generate_artifacts
from onnx_cbp.training.losses import BCEWithLogitsLoss, CrossEntropyLoss
from support.ops import session
from support.refusals import refusals


def model(
    nodes, *, opset=17, inputs="float[N, 3, 6, 6] x, float[3, 3, 3, 3] w", outputs="float[N, 3, h, v] y", more=""
):
    return onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : {opset}]>
    agraph ({inputs}) => ({outputs}) {{ {nodes} }}""")


def differentiated(made, *names):
    inner = ir.from_proto(made)
    DifferentiatePass("loss", names)(inner)
    return ir.to_proto(inner)


def artifacts(made, folder, **more):
    generate_artifacts(made, builder="onnx_cbp", artifact_directory=folder, **more)
    return onnx.load(folder / "training_model.onnx")


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("y = Conv <strides = [1]> (x, w)", "has strides = "),
        ("y = Conv <dilations = [1, 1, 1]> (x, w)", "has dilations = "),
        ("y = Conv <pads = [1, 1]> (x, w)", "has pads = "),
        ("y = Conv <group = 0> (x, w)", "attribute 'group' is 0, expected at least 1"),
        ("y = ConvTranspose <output_padding = [0]> (x, w)", "has output_padding = "),
        ("y = AveragePool <kernel_shape = [2]> (x)", "has kernel_shape = "),
        ("y = MaxPool <kernel_shape = [2, 0]> (x)", "has kernel_shape = "),
        ("y = LpPool <kernel_shape = [2, 2], strides = [2]> (x)", "has strides = "),
    ],
)
def test_windows_over_other_axes_than_there_are_are_one_line(nodes, said):
    made = model(nodes + " loss = ReduceSum <keepdims = 0> (y)", outputs="float loss, float[N, 3, h, v] y")
    with pytest.raises(OnnxCbpError, match=said) as raised:
        differentiated(made, "x")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ('y = Conv <auto_pad = "SAME_UPPER", strides = [1]> (x, w)', "has strides = "),
        ('y = ConvTranspose <auto_pad = "SAME_UPPER", dilations = [1]> (x, w)', "has dilations = "),
        ('y = AveragePool <auto_pad = "SAME_LOWER", kernel_shape = [2, 2, 2]> (x)', "has kernel_shape = "),
        ('y = Conv <auto_pad = "SAME_UPPER", strides = [2]> (x, v)', "the shape of its weight 'v'"),
        ("y = AveragePool <kernel_shape = [2, 2], pads = [1]> (x)", "has pads = "),
        ("y = ConvTranspose <strides = [2]> (x, w)", "has strides = "),
    ],
)
def test_windows_that_passes_write_out_are_held_against_the_data(nodes, said):
    made = model(nodes, inputs="float[N, 3, 6, 6] x, float[3, 3, 3, 3] w, float[3, 3, 3] v")
    passes = ir.passes.Sequential(ExplicitPadsPass(), DecomposePass(lambda op: True))
    with pytest.raises((OnnxCbpError, ir.passes.PassError)) as raised:
        passes(ir.from_proto(made))
    error = raised.value if isinstance(raised.value, OnnxCbpError) else raised.value.__cause__
    assert isinstance(error, OnnxCbpError)
    assert said in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("ignored", [2, -100, 2**32 + 1])
def test_labels_of_both_types_and_an_ignored_one_that_a_type_may_not_hold(kind, ignored):
    loss = f"loss = SoftmaxCrossEntropyLoss <ignore_index = {ignored}> (x, labels)"
    made = differentiated(model(loss, inputs=f"float[N, 3] x, {kind}[N] labels", outputs="float loss"), "x")
    x, labels = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), np.array([0, 1, 2, 1], kind)
    _, got = session(made, None).run(None, {"x": x, "labels": labels})
    p, counts = np.exp(x) / np.exp(x).sum(1, keepdims=True), (labels != ignored)[:, None]
    np.testing.assert_allclose(got, (p - np.eye(3)[labels]) * counts / counts.sum(), atol=1e-6)


LINEAR = "<float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>"


def linear(inputs="float[N, 3] x", outputs="float[N, 3] y", *, opset=17, nodes="y = MatMul (x, w)", kind="float"):
    return onnx.parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : {opset}]>
    agraph ({inputs}) => ({outputs}) {LINEAR.replace("float", kind)} {{ {nodes} }}""")


@pytest.mark.parametrize(
    ("made", "given", "said"),
    [
        (linear("float[N, 3] x, float[N] labels"), {"loss": "CrossEntropyLoss"}, "'labels' has type FLOAT"),
        (linear("float[N, 3] x, string[N, 3] target"), {"loss": "MSELoss"}, "'target' has type STRING"),
        (
            linear(outputs="float y", nodes="s = Shape (n) m = MatMul (x, w) y = Reshape (m, s)"),
            {"loss": "MSELoss"},
            "reads 'n', which nothing makes",
        ),
        (linear(outputs="float[N, 3] z", nodes="z = Nothing (x, w)"), {"loss": "MSELoss"}, "the rank of|no gradient"),
        (linear(), {"loss": "MSELoss", "requires_grad": ["x"]}, "the model has no parameter 'x'"),
        (linear(), {"loss": "MSELoss", "frozen_params": ["x"]}, "the model has no parameter 'x'"),
    ],
)
def test_what_no_loss_can_read_is_one_line(made, given, said, tmp_path):
    for output in made.graph.output:
        if output.name == "z":
            output.type.tensor_type.ClearField("shape")
    with pytest.raises(OnnxCbpError, match=said) as raised:
        artifacts(made, tmp_path, **given)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [2**63, -(2**70), "0", 1.5])
def test_an_ignore_index_that_is_no_label_is_refused(number):
    with pytest.raises(OnnxCbpError, match="ignore_index is"):
        CrossEntropyLoss(ignore_index=number)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint8"])
def test_labels_that_are_an_input_of_another_type(kind, tmp_path):
    made = artifacts(linear(f"float[N, 3] x, {kind}[N] labels"), tmp_path, loss=CrossEntropyLoss(ignore_index=2**40))
    x, labels = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), np.array([0, 1, 2, 1], kind)
    w = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    loss = session(made, None).run(["loss"], {"x": x, "labels": labels, "w": w})[0]
    y = (x @ w).astype(np.float64)
    want = (np.log(np.exp(y - y.max(1, keepdims=True)).sum(1)) + y.max(1) - y[np.arange(4), labels]).mean()
    assert loss == pytest.approx(want, rel=1e-5)


def test_the_cross_entropy_of_two_classes_in_double(tmp_path):
    made = artifacts(
        linear("double[N, 3] x", "double[N, 3] y", kind="double"),
        tmp_path,
        loss=BCEWithLogitsLoss(pos_weight=[2, 1, 3]),
    )
    rng = np.random.default_rng(0)
    x, target, w = rng.normal(size=(4, 3)), rng.uniform(size=(4, 3)), np.arange(1.0, 10).reshape(3, 3)
    loss, gradient = session(made, None).run(["loss", "w_grad"], {"x": x, "target": target, "w": w})
    y, positive = x @ w, np.array([2, 1, 3])
    want = positive * target * np.logaddexp(0, -y) + (1 - target) * np.logaddexp(0, y)
    dy = (1 - target) / (1 + np.exp(-y)) - positive * target / (1 + np.exp(y))
    np.testing.assert_allclose(loss, want.mean(), rtol=1e-12)
    np.testing.assert_allclose(gradient, x.T @ dy / y.size, rtol=1e-10)


def test_declared_sizes_that_are_wrong_are_not_relied_on(tmp_path):
    """ONNX Runtime only warns; a loss and gradients for them would not run."""
    wrong = linear(
        outputs="float[N, 5] y, float loss", nodes="y = MatMul (x, w) e = Exp (y) loss = ReduceMean <keepdims = 0> (e)"
    )
    x, w = np.full((2, 3), 0.1, np.float32), np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    want = x.T @ np.exp(x @ w) / 6
    gradient = session(differentiated(wrong, "w"), None).run(["w_grad"], {"x": x})[0]
    np.testing.assert_allclose(gradient, want, rtol=1e-5)
    made = artifacts(wrong, tmp_path, loss="MSELoss", loss_input_names=["y"])
    session(made, None).run(None, {"x": x, "w": w, "target": np.zeros((2, 3), np.float32)})


def test_an_old_model_that_declares_an_input_twice_is_converted_by_the_first(tmp_path):
    made = linear(opset=11, nodes="r = Relu (x) y = MatMul (r, w)")
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, [2, 4]))
    (x,) = (value for value in artifacts(made, tmp_path, loss="MSELoss").graph.input if value.name == "x")
    assert x.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_an_old_model_keeps_what_its_functions_compute(tmp_path):
    """The converter of opsets loses functions."""
    made = linear(opset=11, nodes="r = local.F (x) y = MatMul (r, w)")
    body = '<domain: "local", opset_import: ["" : 11]> F (a) => (b) { b = Neg (a) }'
    made.functions.append(onnx.parser.parse_function(body))
    made.opset_import.append(onnx.helper.make_opsetid("local", 1))
    x, w = np.ones((2, 3), np.float32), np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    result = artifacts(made, tmp_path, loss="MSELoss")
    loss = session(result, None).run(["loss"], {"x": x, "w": w, "target": np.zeros((2, 3), np.float32)})[0]
    assert loss == pytest.approx(((x @ w) ** 2).mean())


@pytest.mark.native
def test_an_updated_statistic_may_be_an_output(tmp_path):
    """Its batch norm then stays in the evaluation model, beside the one in inference form."""
    made = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1]>
    g (float[N, 2, 4] x, float[2] a, float[2] b, float[2] mean, float[2] var) => (float[N, 2, 4] y, float[2] m)
    <float[2] a = {1, 2}, float[2] b = {3, 4}>
    { y, m, v = BatchNormalization <training_mode = 1> (x, a, b, mean, var) }""")
    more = {"requires_grad": ["a"], "loss": "MSELoss", "loss_input_names": ["y"], "additional_output_names": ["m"]}
    artifacts(onnx_cbp.rewrite(made), tmp_path, **more)
    ones = np.ones(2, np.float32)
    x = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float32)
    feeds = {"x": x, "target": 0 * x, "a": ones, "mean": 0 * ones, "var": ones}
    loss, mean = session(onnx.load(tmp_path / "eval_model.onnx"), "native").run(["loss", "m"], feeds)
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 2)), rtol=1e-4, atol=1e-6)
    y = x / np.sqrt(1 + 1e-5) + np.array([3, 4], np.float32)[:, None]
    assert loss == pytest.approx((y**2).mean(), rel=1e-5)


#: Vectors of so many numbers that onnx's inference, which follows each one, would need all memory.
LONG = """zero = Constant <value = int64 {0}> ()  end = Constant <value = int64 {1099511627776}> ()
    one = Constant <value = int64 {1}> ()  r = Range (zero, end, one)  c = Cast <to = 1> (r)
    s = ReduceMax <keepdims = 0> (c)"""


def test_vectors_that_no_memory_holds_in_a_function(tmp_path):
    made = linear(outputs="float loss", nodes="y = local.F (x, w) loss = ReduceSum <keepdims = 0> (y)")
    body = f'<domain: "local", opset_import: ["" : 17]> F (a, k) => (b) {{ {LONG} m = Mul (a, k) b = Add (m, s) }}'
    made.functions.append(onnx.parser.parse_function(body))
    made.opset_import.append(onnx.helper.make_opsetid("local", 1))
    said = refusals(
        {
            "differentiate": lambda: differentiated(made, "w"),
            "artifacts": lambda: artifacts(made, tmp_path, loss="loss", requires_grad=["w"]),
        }
    )
    assert all("inference" not in each for each in said.values())


def test_vectors_that_no_memory_holds_in_an_old_model(tmp_path):
    made = linear(opset=11, nodes=f"{LONG} m = MatMul (x, w) y = Add (m, s)")
    said = refusals({"artifacts": lambda: artifacts(made, tmp_path, loss="MSELoss", requires_grad=["w"])})
    assert "export it with opset 13 or newer" in said["artifacts"]


def test_a_default_that_is_declared_with_open_sizes_has_those_of_its_data(tmp_path):
    made = model(
        "h = Gemm (x, w)  y = Add (h, b)", inputs="float[N, 3] x, float[K, M] w, float[M] b", outputs="float[N, 2] y"
    )
    values = {"w": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    training = artifacts(made, tmp_path, loss="MSELoss", optimizer="AdamW")
    assert {"w_grad", "b_grad"} <= {name for node in training.graph.node for name in node.output}


def test_a_type_that_is_declared_as_undefined_is_not_known():
    made = model(
        "y = Mul (x, w)  loss = ReduceSum <keepdims = 0> (y)", inputs="float[N, 3] x, float[3] w", outputs="float loss"
    )
    made.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.UNDEFINED
    with pytest.raises(OnnxCbpError) as raised:
        differentiated(made, "x")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [np.array(1), np.array([[1, 1]]), np.array([1, 1, 1]), np.zeros(0, np.int64)])
@pytest.mark.parametrize("op", ["Tile (h, k)", "Slice (h, k, k)", "Slice (h, k, k, k, k)"])
def test_sizes_and_places_of_another_shape_are_one_line(op, given):
    made = model(
        f"h = Mul (x, w)  y = {op}  loss = ReduceSum <keepdims = 0> (y)",
        inputs="float[N, 3] x, float[3] w",
        outputs="float loss",
    )
    made.graph.initializer.append(onnx.numpy_helper.from_array(given, "k"))
    refusals({"differentiate": lambda: differentiated(made, "w")})


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "MSELoss", "L1Loss", "BCEWithLogitsLoss"])
def test_an_output_that_is_declared_twice_without_a_type_has_the_one_that_follows(loss, tmp_path):
    made = model("y = Mul (x, w)", inputs="double[N, 3, 4] x", outputs="double[N, 3, 4] y, double[N, 3, 4] y")
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 1)), "w"))
    for output in made.graph.output:
        output.ClearField("type")
    training = artifacts(
        made, tmp_path, loss=loss, loss_input_names=["y"], requires_grad=["w"], additional_output_names=["y"]
    )
    target = {"CrossEntropyLoss": "labels"}.get(loss, "target")
    kinds = {each.name: each.type.tensor_type.elem_type for each in (*training.graph.input, *training.graph.output)}
    assert kinds["y"] == kinds["loss"] == onnx.TensorProto.DOUBLE
    assert kinds[target] == (onnx.TensorProto.DOUBLE if target == "target" else onnx.TensorProto.INT64)


def test_shapes_that_contradict_each_other_once_functions_are_inlined_are_one_line(tmp_path):
    made = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "l" : 1]>
        agraph (float[N, 2, 4] x) => (float[N, 2] y) <bool always = {1}, float[1] w = {2}>
        {
            scaled = Mul (x, w)
            h = l.F (scaled)
            z = If (always) <
                then_branch = there () => (float[N, 2] a) { a = Neg (h) },
                else_branch = here () => (float[N, 2] b) { b = Abs (h) }
            >
            t = Tanh (z)
            y = Add (z, t)
        }
        <domain: "l", opset_import: ["" : 17]> F (X) => (Y) { Y = Relu (X) }""")
    training = artifacts(made, tmp_path, loss="MSELoss", optimizer=None, requires_grad=["w"])
    x = np.random.default_rng(2).normal(size=(3, 2, 4)).astype(np.float32)
    feeds = {"x": x, "target": np.zeros_like(x), "w": np.array([2], np.float32)}
    gradient = session(training, None).run(["w_grad"], feeds)[0]
    h = -2 * np.maximum(x, 0.0).astype(np.float64)
    want = 2 * (h + np.tanh(h)) * (2 - np.tanh(h) ** 2) * h / 2
    np.testing.assert_allclose(gradient, [want.mean()], rtol=1e-5)


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_a_window_of_padding_alone_is_one_line(op):
    """ONNX Runtime 1.17 has it, newer versions have not, and onnx's inference has it below opset 22."""
    made = model(
        f"p = {op} <kernel_shape = [2, 2], strides = [2, 3], ceil_mode = 1, pads = [0, 0, 1, 1]> (x) "
        "y = Mul (p, p) loss = ReduceSum <keepdims = 0> (y)",
        inputs="float[N, 3, 7, 8] x",
        outputs="float loss",
    )
    known = ir.from_proto(onnx.shape_inference.infer_shapes(made))
    sizes = next(node for node in known.graph if node.op_type == op).outputs[0].shape
    if sizes[3] == 3:
        pytest.skip(f"onnx {onnx.__version__} has no such window")
    with pytest.raises(OnnxCbpError, match="its last window has nothing but padding") as raised:
        differentiated(made, "x")
    assert "\n" not in str(raised.value)
