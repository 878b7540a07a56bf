"""Gradients of whole graphs: what is differentiated, what is left alone, what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.differentiating import DifferentiatePass, differentiate
from support.models import op_types, parse
from support.ops import session

TWO_LAYERS = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (double[N, 3] x, double[3, 4] w, double[4] b, double[4] v) => (double loss)
{ h = MatMul (x, w)  a = Add (h, b)  r = Tanh (a)  s = MatMul (r, v)  q = Mul (s, s)
  loss = ReduceMean <keepdims = 0> (q) }
"""


def _value(model: ir.Model, name: str) -> ir.Value:
    values = {value.name: value for node in model.graph for value in node.outputs}
    return values.get(name) or next(value for value in model.graph.inputs if value.name == name)


def _feeds(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=s) for name, s in {"x": (batch, 3), "w": (3, 4), "b": 4, "v": 4}.items()}


def _differentiated(text: str, loss: str, values: list[str]) -> onnx.ModelProto:
    model = ir.from_proto(parse(text))
    assert DifferentiatePass(loss, values)(model).modified
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def test_gradients_are_outputs_named_after_their_values():
    names = ["w", "b", "v", "r"]
    model = _differentiated(TWO_LAYERS, "loss", names)
    assert [value.name for value in model.graph.output] == ["loss", *(f"{name}_grad" for name in names)]
    for batch in (1, 5):
        feeds = _feeds(batch)
        _, dw, db, dv, dr = session(model, None).run(None, feeds)
        x, w, b, v = feeds.values()
        r = np.tanh(x @ w + b)
        ds = 2 * (r @ v) / batch
        da = np.outer(ds, v) * (1 - r * r)
        for got, want in zip((dw, db, dv, dr), (x.T @ da, da.sum(0), r.T @ ds, np.outer(ds, v)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_second_derivatives_by_differentiating_a_gradient():
    """A Hessian-vector product: the gradient of <dloss/dw, u>, against differences of the gradient."""
    model = ir.from_proto(parse(TWO_LAYERS))
    w = _value(model, "w")
    (dw,) = differentiate(model, _value(model, "loss"), [w])
    u = ir.Value(name="u", type=w.type, shape=w.shape)
    model.graph.inputs.append(u)
    (product,) = differentiate(model, {dw: u}, [w])
    model.graph.outputs.extend([dw, product])
    run = session(ir.to_proto(model), None)
    feeds = {**_feeds(4), "u": np.random.default_rng(1).normal(size=(3, 4))}
    _, _, got = run.run(None, feeds)
    step = 1e-6 * feeds["u"]
    sides = [run.run(None, {**feeds, "w": feeds["w"] + sign * step})[1] for sign in (1, -1)]
    np.testing.assert_allclose(got, (sides[0] - sides[1]) / 2e-6, rtol=1e-7, atol=1e-7)


def test_what_no_value_reaches_costs_nothing():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[N, 3] x, float[3] w, float[3] frozen, int64[N] k) => (float loss)
    { a = Mul (x, frozen)  e = Exp (a)  c = Mul (e, w)  f = Cast <to = 1> (k)  g = Sin (f)
      m = ReduceMean <keepdims = 0> (g)  s = ReduceSum <keepdims = 0> (c)  loss = Add (s, m) }
    """
    model = ir.from_proto(parse(text))
    before = len(model.graph)
    (dw, dk) = differentiate(model, _value(model, "loss"), [_value(model, "w"), _value(model, "f")])
    assert dw is not None
    assert dk is not None
    ops = op_types(ir.to_proto(model))[before:]
    assert "Exp" not in ops  # e is a forward value, and nothing goes back through it
    assert ops.count("Mul") <= 3
    again = ir.from_proto(parse(text))
    (nothing,) = differentiate(again, _value(again, "m"), [_value(again, "w")])
    assert nothing is None
    assert len(again.graph) == before


def test_several_readers_are_added_up():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (double[3] x) => (double loss)
    { a = Mul (x, x)  b = Add (x, a)  c = Mul (a, b)  d = Add (c, x)  loss = ReduceSum <keepdims = 0> (d) }
    """
    x = np.array([0.5, -1.0, 2.0])
    *_, got = session(_differentiated(text, "loss", ["x"]), None).run(None, {"x": x})
    np.testing.assert_allclose(got, 4 * x**3 + 3 * x**2 + 1, rtol=1e-14)  # x^4 + x^3 + x


@pytest.mark.parametrize("ratio", [0.25, None])
@pytest.mark.parametrize("told", ["constant", "fed"])
def test_dropout_lets_pass_what_it_let_pass(ratio, told):
    """The mask of the forward pass is asked for; where it is fed whether it trains, both are in the graph."""
    given = "" if ratio is None else "ratio"
    how = "yes = Constant <value = bool {1}> ()" if told == "constant" else "yes = Identity (training)"
    model = _differentiated(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 50] x, float ratio, bool training) => (float loss, float[N, 50] y)
        {{ {how}  y = Dropout <seed = 1> (x, {given}, yes)  loss = ReduceSum <keepdims = 0> (y) }}""",
        *("loss", ["x"]),
    )
    run = session(model, None)
    fed = {value.name for value in run.get_inputs()}
    for training in (True, False) if told == "fed" else (True,):
        feeds = {"x": np.ones((3, 50), np.float32), "ratio": np.array(0.25, np.float32), "training": np.array(training)}
        _, y, dx = run.run(None, {name: value for name, value in feeds.items() if name in fed})
        np.testing.assert_allclose(dx, y)  # y is linear in x, which is 1
        assert (y == 0).any() == training


def test_whole_numbers_stop_a_gradient():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (double[N, 3] x) => (double loss)
    { s = Shape (x)  p = ReduceProd <keepdims = 0> (s)  n = Cast <to = 11> (p)  f = Floor (x)  y = Add (x, f)
      t = ReduceSum <keepdims = 0> (y)  loss = Div (t, n) }
    """
    *_, got = session(_differentiated(text, "loss", ["x"]), None).run(None, {"x": np.full((2, 3), 0.3)})
    np.testing.assert_allclose(got, np.full((2, 3), 1 / 6), rtol=1e-14)


def test_ops_without_a_rule_go_by_their_body():
    text = """
    <ir_version: 8, opset_import: ["" : 18, "local" : 1]>
    agraph (float[N, 3] x, float[N, 3] y) => (float loss)
    { r = local.Root <power = 3.0> (x)  m = MeanVarianceNormalization <axes = [0]> (y)  z = Mul (r, m)
      loss = ReduceSum <keepdims = 0> (z) }
    <opset_import: ["" : 18], domain: "local">
    Root <power> (x) => (y) { p = Constant <value_float: float = @power> ()  q = CastLike (p, x)  y = Pow (x, q) }
    """
    model = _differentiated(text, "loss", ["x", "y"])
    assert "MeanVarianceNormalization" not in op_types(model)
    assert "Root" not in op_types(model)
    rng = np.random.default_rng(0)
    for batch in (3, 6):
        x, y = rng.uniform(0.5, 2, (batch, 3)), rng.normal(size=(batch, 3))
        loss, dx, dy = session(model, None).run(None, {"x": x.astype(np.float32), "y": y.astype(np.float32)})
        std = y.std(axis=0)
        m = (y - y.mean(axis=0)) / std
        np.testing.assert_allclose(loss, (x**3 * m).sum(), atol=1e-4)
        np.testing.assert_allclose(dx, 3 * x**2 * m, atol=1e-4)
        dm = x**3
        np.testing.assert_allclose(dy, (dm - dm.mean(axis=0) - m * (dm * m).mean(axis=0)) / std, atol=1e-4)


@pytest.mark.parametrize(("inner", "refused"), [(18, False), (17, False), (11, True)])
def test_a_function_of_another_opset_is_taken_where_its_ops_are_the_same(inner, refused):
    """Softmax has other axes before opset 13: its nodes would mean something else in the graph."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 18, "local" : 1]>
    agraph (double[N, 3, 2] x) => (double loss)
    {{ s = local.S (x)  q = Mul (s, s)  loss = ReduceSum <keepdims = 0> (q) }}
    <opset_import: ["" : {inner}], domain: "local">
    S (x) => (y) {{ y = Softmax <axis = 1> (x) }}
    """
    if refused:
        with pytest.raises(OnnxCbpError, match=r"^node 's': local.S has no gradient rule, and 'x' reaches the loss"):
            DifferentiatePass("loss", ["x"])(ir.from_proto(onnx.parser.parse_model(text)))
        return
    x = np.random.default_rng(0).normal(size=(4, 3, 2))
    *_, got = session(_differentiated(text, "loss", ["x"]), None).run(None, {"x": x})
    y = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, 2 * y * (y - (y * y).sum(axis=1, keepdims=True)), atol=1e-12)


@pytest.mark.parametrize(
    ("nodes", "values", "message"),
    [
        ("loss = ReduceSum <keepdims = 0> (x)  d = Det (w)", ["x"], None),
        (
            "d = Det (w)  s = ReduceSum <keepdims = 0> (x)  loss = Add (s, d)",
            ["x", "w"],
            r"^node 'd': ai.onnx.Det has no gradient rule, and 'w' reaches the loss through it",
        ),
        ("loss = ReduceSum <keepdims = 0> (x)  k = Mul (x, x)", ["k"], None),
        ("k = Shape (x)  loss = ReduceSum <keepdims = 0> (x)", ["k"], r"^'k' has type INT64: only floating-point"),
        (
            "s = Constant <value = float {0.1}> ()  q = QuantizeLinear (w, s)  d = DequantizeLinear (q, s)"
            "  loss = ReduceSum <keepdims = 0> (d)",
            ["w"],
            r"^node 'q': QuantizeLinear rounds 'w', and no gradient passes it",
        ),
        ("loss = ReduceSum <keepdims = 0> (x)", ["absent"], r"^the graph has no value 'absent'"),
        (
            "c = Greater (x, x)  l = If (c1) <then_branch = t () => (float[2, 2] y) { y = Neg (w) },"
            " else_branch = e () => (float[2, 2] z) { z = Identity (w) }>  loss = ReduceSum <keepdims = 0> (l)",
            ["w"],
            r"^node 'l': ai.onnx.If has no gradient rule, and 'w' reaches the loss through it",
        ),
    ],
)
def test_what_cannot_be_differentiated_is_refused_before_anything_is_changed(nodes, values, message):
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[N, 3] x, float[2, 2] w, bool c1) => (float loss) {{ {nodes} }}
    """
    model = ir.from_proto(parse(text))
    before = ir.to_proto(model).SerializeToString()
    if message is None:
        DifferentiatePass("loss", values)(model)
        return
    with pytest.raises(OnnxCbpError, match=message) as raised:
        DifferentiatePass("loss", values)(model)
    assert "\n" not in str(raised.value)
    assert ir.to_proto(model).SerializeToString() == before
    assert all(not value.uses() for value in model.graph.inputs if value.name not in nodes)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ('p = Constant <value = int64[4] {0, 0, 0, 1}> () y = Pad <mode = "foo"> (x, p)', "its mode is 'foo'"),
        (
            'p = Constant <value = int64[4] {0, 0, 0, 2147483648}> () y = Pad <mode = "edge"> (x, p)',
            "a constant of 2147483652 x 4",
        ),
        (
            "e = Constant <value_floats = [1.0, nan]> () y = Resize (x, , e)",
            "its scales are [1.0, nan], expected finite numbers above 0",
        ),
        ("y = LRN <size = 1099511627776> (z)", None),
        ("y = GroupNormalization <num_groups = 0> (z, s, s)", "it has 6 channels in 0 groups"),
        ("y = GroupNormalization <num_groups = 4> (z, s, s)", "it has 6 channels in 4 groups"),
        (
            "y = AveragePool <kernel_shape = [1, 1], pads = [1099511627776, 0, 0, 0]> (z)",
            "its gradient needs a constant of 10995116277",
        ),
    ],
)
def test_attributes_that_no_memory_holds_or_that_mean_nothing_are_one_line(nodes, said):
    text = f"""
    <ir_version: 10, opset_import: ["" : 21]>
    agraph (float[3, 4] x, float[2, 6, 3, 3] z, float[6] s) => (float loss)
    {{ {nodes}  loss = ReduceSum <keepdims = 0> (y) }}
    """
    model = ir.from_proto(parse(text.replace("nan]", "0.0]")))
    for node in model.graph:
        if "nan" in nodes and node.op_type == "Constant":
            node.attributes["value_floats"] = ir.AttrFloat32s("value_floats", [1.0, float("nan")])
    values = ["z" if "(z" in nodes else "x"]
    if said is None:  # channels that are not there count as zeros, however many
        DifferentiatePass("loss", values)(model)
        return
    with pytest.raises(OnnxCbpError) as raised:
        DifferentiatePass("loss", values)(model)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_rule_that_refuses_leaves_the_graph_as_it_was():
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    agraph (float[3, 3] x) => (float loss) <float[3, 2] d>
    { y = Exp (x)  m = MeanVarianceNormalization <axes = [0]> (y)
      p = Constant <value_ints = [0, -1, 0, 0]> ()  r = Pad <mode = "edge"> (m, p)
      d = Dropout (r)  loss = ReduceSum <keepdims = 0> (d) }
    """
    model = ir.from_proto(parse(text))
    before = ir.to_proto(model).SerializeToString()
    uses = len(_value(model, "y").uses())
    with pytest.raises(OnnxCbpError, match=r"^node 'r' \(Pad\) cannot be differentiated: mode 'edge'"):
        DifferentiatePass("loss", ["x"])(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert len(_value(model, "y").uses()) == uses


def test_old_opsets_are_refused():
    text = '<ir_version: 7, opset_import: ["" : 12]> agraph (float x) => (float y) { y = Neg (x) }'
    with pytest.raises(OnnxCbpError, match="gradients need opset 13 or newer, the model imports opset 12"):
        DifferentiatePass("y", ["x"])(ir.from_proto(parse(text)))


def test_a_loss_of_several_elements_is_refused():
    text = '<ir_version: 8, opset_import: ["" : 13]> agraph (float[N] x) => (float[N] y) { y = Neg (x) }'
    with pytest.raises(OnnxCbpError, match=r"^the loss 'y' has type FLOAT and shape \['N'\]: give a"):
        DifferentiatePass("y", ["x"])(ir.from_proto(parse(text)))


def test_a_seed_of_another_shape_is_refused():
    model = ir.from_proto(parse(TWO_LAYERS))
    seed = ir.Value(name="seed", type=ir.TensorType(ir.DataType.DOUBLE), shape=ir.Shape([3, 5]))
    with pytest.raises(OnnxCbpError, match=r"the gradient 'seed' of 'a' has type DOUBLE and shape \[3, 5\], expected"):
        differentiate(model, {_value(model, "a"): seed}, [_value(model, "w")])
