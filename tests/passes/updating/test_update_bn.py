"""Running statistics taken anew: against float64, in every form a batch norm comes in."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_cbp
from onnx_cbp import OnnxCbpError
from support.models import parse
from support.ops import session

EPSILON = 1e-3

#: Two batch norms, so that the second one's statistics depend on how the first normalises.
_LAYERS = """
<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
agraph (float[N, 4] x, int64[N] labels) => (float[N, 3] y)
{{
    a = MatMul (x, w1)
    b{more1} = {op} (a, gamma1, beta1, mean1, var1)
    c = Relu (b)
    d = MatMul (c, w2)
    e{more2} = {op} (d, gamma2, beta2, mean2, var2)
    y = Relu (e)
}}
"""
FORMS = {
    "inference": ("BatchNormalization <epsilon: float = 0.001>", 15, 0),
    "training": ("BatchNormalization <epsilon: float = 0.001, training_mode: int = 1>", 15, 2),
    "eval model": ("BatchNormalization <epsilon: float = 0.001, training_mode: int = 0>", 15, 2),
    "artifact": ("com.microsoft.BatchNormInternal <epsilon: float = 0.001>", 15, 4),
    "opset 8": ("BatchNormalization <epsilon: float = 0.001>", 8, 0),
}


def _weights(seed=0):
    rng = np.random.default_rng(seed)
    weights = {"w1": rng.normal(size=(4, 3)), "w2": rng.normal(size=(3, 3))}
    for layer in "12":
        weights[f"gamma{layer}"], weights[f"beta{layer}"] = rng.uniform(0.5, 2, 3), rng.normal(size=3)
        weights[f"mean{layer}"], weights[f"var{layer}"] = rng.normal(size=3), rng.uniform(0.5, 2, 3)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _model(form="inference", weights=None):
    op, opset, outputs = FORMS[form]
    more = ["".join(f", o{layer}{i}" for i in range(outputs)) for layer in "12"]
    model = onnx.parser.parse_model(_LAYERS.format(op=op, opset=opset, more1=more[0], more2=more[1]))
    weights = _weights() if weights is None else weights
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


def _batches(sizes=(8, 16, 5), seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(1.0, 2.0, (size, 4)).astype(np.float32) for size in sizes]


def _statistics(batches, ddof=1):
    """Of each batch, (mean, var) of each layer, in float64."""
    w = {name: value.astype(np.float64) for name, value in _weights().items()}
    found = []
    for x in batches:
        a, of_batch = x.astype(np.float64) @ w["w1"], []
        for layer in "12":
            mean, var = a.mean(axis=0), a.var(axis=0)
            of_batch += [mean, a.var(axis=0, ddof=ddof)]
            b = w[f"gamma{layer}"] * (a - mean) / np.sqrt(var + np.float32(EPSILON)) + w[f"beta{layer}"]
            a = np.maximum(b, 0) @ w["w2"]
        found.append(of_batch)
    return found


def _running(model):
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [values[name] for name in ("mean1", "var1", "mean2", "var2")]


def _nodes(model):
    return [(n.op_type, list(n.input), list(n.output), sorted(str(a) for a in n.attribute)) for n in model.graph.node]


def _equal(got, want):
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_each_batch_counts_the_same(form, unbiased):
    batches = _batches()
    options = {} if unbiased else {"unbiased_running_var": False}  # PyTorch's convention is the default
    model = _model(form)
    before = model.SerializeToString(deterministic=True)
    got = onnx_cbp.update_bn(model, batches, **options)
    assert model.SerializeToString(deterministic=True) == before
    want = [np.mean(values, axis=0) for values in zip(*_statistics(batches, ddof=int(unbiased)), strict=True)]
    _equal(_running(got), want)
    assert _nodes(got) == _nodes(model)
    assert got.graph.output == model.graph.output
    changed = {"mean1", "var1", "mean2", "var2"}
    kept = [[t for t in m.graph.initializer if t.name not in changed] for m in (model, got)]
    assert [t.SerializeToString() for t in kept[0]] == [t.SerializeToString() for t in kept[1]]


SWITCHES = [{}, {"one_pass": False}, {"synchronize": True}, {"portable": True}, {"unbiased_running_var": True}]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("form", ["training", "artifact"])
def test_of_rewritten_models(form, switches):
    model = _model(form)
    for layer in "12":  # running statistics that are outputs of the graph, so that the rewrite keeps them
        for output in range(2):
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(f"o{layer}{output}", onnx.TensorProto.FLOAT, [3])
            )
    rewritten = onnx_cbp.rewrite(model, **switches)
    got = onnx_cbp.update_bn(rewritten, _batches())
    _equal(_running(got), [np.mean(values, axis=0) for values in zip(*_statistics(_batches()), strict=True)])
    assert _nodes(got) == _nodes(rewritten)


@pytest.mark.parametrize("backend", ["python", pytest.param("native", marks=pytest.mark.native)])
def test_backends(backend):
    got = onnx_cbp.update_bn(_model(), _batches(), backend=backend)
    _equal(_running(got), [np.mean(values, axis=0) for values in zip(*_statistics(_batches()), strict=True)])


@pytest.mark.native
@pytest.mark.parametrize("types", ["16-bit", "mixed"])
@pytest.mark.parametrize("data", ["float16", "bfloat16"])
def test_16_bits(data, types):
    """Statistics of 16-bit data are taken in more than that; they are rounded once, where they are kept in 16 bits."""
    dtype = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}[data]
    kept = dtype if types == "16-bit" else np.dtype(np.float32)
    number = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}[data]
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["narrow"], to=number),
        onnx.helper.make_node("BatchNormalization", ["narrow", "gamma", "beta", "mean", "var"], ["y"]),
    ]
    parameters = {"gamma": np.ones(3), "beta": np.zeros(3), "mean": np.zeros(3), "var": np.ones(3)}
    graph = onnx.helper.make_graph(
        nodes,
        data,
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, "L"])],
        [onnx.helper.make_tensor_value_info("y", number, ["N", 3, "L"])],
        [ir.to_proto(ir.tensor(value.astype(kept), name=name)) for name, value in parameters.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8)
    x = np.random.default_rng(0).normal(5.0, 1.0, (64, 3, 500)).astype(np.float32)
    got = {t.name: ir.from_proto(t).numpy() for t in onnx_cbp.update_bn(model, [x]).graph.initializer}
    wide = x.astype(dtype).astype(np.float64)
    for name, want in (("mean", wide.mean(axis=(0, 2))), ("var", wide.var(axis=(0, 2), ddof=1))):
        assert got[name].dtype == kept
        rounding = 1e-6 if kept == np.float32 else {"float16": 2.0**-10, "bfloat16": 2.0**-7}[data]
        np.testing.assert_allclose(got[name].astype(np.float64), want, rtol=rounding)


@pytest.mark.parametrize("options", [{"unbiased_running_var": False}, {"exact": True}], ids=str)
def test_one_element_a_channel_has_a_mean_and_a_biased_variance(options):
    batches = _batches((8, 1))
    got = onnx_cbp.update_bn(_model(), batches, **options)
    a = [x.astype(np.float64) @ _weights()["w1"].astype(np.float64) for x in batches]
    want = np.concatenate(a).mean(axis=0) if options.get("exact") else np.mean([v.mean(axis=0) for v in a], axis=0)
    np.testing.assert_allclose(_running(got)[0], want, rtol=1e-5)


def test_with_momentum_they_go_on_from_the_present_ones():
    weights = _weights()
    want = [weights[name].astype(np.float64) for name in ("mean1", "var1", "mean2", "var2")]
    for values in _statistics(_batches()):
        want = [0.75 * old + 0.25 * new for old, new in zip(want, values, strict=True)]
    _equal(_running(onnx_cbp.update_bn(_model(), _batches(), momentum=0.75)), want)


@pytest.mark.parametrize("unbiased", [False, True])
def test_exact_statistics_do_not_depend_on_the_batches(unbiased):
    whole = _batches((40,))[0] + 100.0
    a = whole.astype(np.float64) @ _weights()["w1"].astype(np.float64)
    for cuts in ([40], [1, 39], [13, 13, 14], [5] * 8):
        parts = np.split(whole, np.cumsum(cuts)[:-1])
        got = onnx_cbp.update_bn(_model(), parts, exact=True, unbiased_running_var=unbiased)
        _equal(_running(got)[:2], [a.mean(axis=0), a.var(axis=0, ddof=int(unbiased))])


def test_what_a_batch_may_be():
    x = _batches((8,))[0]
    want = _running(onnx_cbp.update_bn(_model(), [x]))
    labels = np.zeros(8, np.int64)
    for batch in ({"x": x}, {"x": x, "labels": labels}, (x,), [x, labels], (x, labels, "more")):
        _equal(_running(onnx_cbp.update_bn(_model(), iter([batch]))), want)


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_inputs_of_bfloat16(dtype, rewritten):
    model = parse("""
<ir_version: 8, opset_import: ["" : 15]>
agraph (bfloat16[N, 2] x) => (bfloat16[N, 2] y, float[2] mean, float[2] var)
<float[2] one = {1, 1}, float[2] zero = {0, 0}, float[2] m = {0, 0}, float[2] v = {1, 1}>
{ y, mean, var = BatchNormalization <training_mode: int = 1> (x, one, zero, m, v) }""")
    if rewritten:
        model = onnx_cbp.rewrite(model)
    x = np.random.default_rng(0).normal(3.0, 2.0, (9, 2)).astype(ml_dtypes.bfloat16)
    got = onnx_cbp.update_bn(model, [x.astype(dtype)])
    values = {t.name: numpy_helper.to_array(t) for t in got.graph.initializer}
    np.testing.assert_allclose(values["m"], x.astype(np.float64).mean(axis=0), rtol=1e-5)
    with pytest.raises(OnnxCbpError, match=r"^batch 0: 'x' has type float64, and float32 is fed to the model"):
        onnx_cbp.update_bn(model, [x.astype(np.float64)])


def test_a_value_that_is_no_array_is_named():
    class Value:
        def __array__(self, *_, **__):
            raise RuntimeError("No corresponding Numpy type for Tensor Type.")  # as an OrtValue of bfloat16

    with pytest.raises(OnnxCbpError, match=r"^batch 0: 'x' is no array of NumPy: give one of float32$"):
        onnx_cbp.update_bn(_model(), [{"x": Value()}])


def test_empty_batches_say_nothing():
    batches = _batches()
    got = onnx_cbp.update_bn(_model(), [batches[0], np.zeros((0, 4), np.float32), *batches[1:]])
    _equal(_running(got), _running(onnx_cbp.update_bn(_model(), batches)))


def test_the_result_runs_with_the_new_statistics():
    x = _batches((64,))[0]
    got = onnx_cbp.update_bn(_model(), [x], unbiased_running_var=False)
    del got.graph.output[:]
    got.graph.output.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["N", 3]))
    (b,) = session(got, None).run(None, {"x": x, "labels": np.zeros(64, np.int64)})
    weights = _weights()
    np.testing.assert_allclose(b.mean(axis=0), weights["beta1"], atol=1e-4)
    np.testing.assert_allclose(b.std(axis=0), weights["gamma1"], rtol=1e-3)


SPELLINGS = {
    "as they are": "",
    "reshaped": "m = Reshape (mean, shape) v = Reshape (var, shape)",
    "unsqueezed": "m = Unsqueeze (mean, axes) v = Unsqueeze (var, axes)",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_of_arithmetic(spelling):
    before = SPELLINGS[spelling]
    statistics = {"mean": (3,), "var": (3,)} if before else {"m": (3, 1, 1), "v": (3, 1, 1)}
    model = onnx.parser.parse_model(f"""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, 4, 5] x) => (float[N, 3, 4, 5] y)
<int64[4] shape = {{1, 3, 1, 1}}, int64[2] axes = {{1, 2}}, float epsilon = {{0.001}}>
{{
    {before}
    d = Sub (x, m)  shifted = Add (v, epsilon)  std = Sqrt (shifted)  n = Div (d, std)  t = Mul (n, g)  y = Add (t, b)
}}""")
    rng = np.random.default_rng(4)
    values = {
        name: rng.uniform(0.5, 2, shape) for name, shape in {"g": (3, 1, 1), "b": (3, 1, 1), **statistics}.items()
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()
    )
    x = rng.normal(3, 2, (6, 3, 4, 5)).astype(np.float32)
    updated = onnx_cbp.update_bn(model, [x], unbiased_running_var=False)
    mean, var = x.mean((0, 2, 3), dtype=np.float64), x.var((0, 2, 3), dtype=np.float64)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in updated.graph.initializer}
    assert set(found) == {tensor.name for tensor in model.graph.initializer}
    for name, want in zip(statistics, (mean, var), strict=True):
        np.testing.assert_allclose(found[name], want.reshape(statistics[name]), rtol=1e-6)
    column = (slice(None), np.newaxis, np.newaxis)
    want = (x - mean[column]) / np.sqrt(var[column] + EPSILON) * values["g"] + values["b"]
    np.testing.assert_allclose(session(updated, None).run(None, {"x": x})[0], want, rtol=1e-5, atol=1e-5)


_SHARED = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2, 3] x) => (float[N, 2, 3] y)
<float[2, 1] m = {1, 2}, float[2, 1] v = {2, 1}, float[2, 1] g = {3, 4}, float[2, 1] b = {5, 6},
 float epsilon = {0.001}>
{
    d = Sub (x, m)  shifted = Add (v, epsilon)  std = Sqrt (shifted)  n = Div (d, std)  t = Mul (n, g)  z = Add (t, b)
    y = Mul (z, m)
}"""


def test_arithmetic_that_shares_its_statistics_gets_its_own():
    x = np.random.default_rng(5).normal(3, 2, (6, 2, 3)).astype(np.float32)
    updated = onnx_cbp.update_bn(parse(_SHARED), [x], unbiased_running_var=False)
    column = (slice(None), np.newaxis)
    m, g, b = (np.array(values)[column] for values in ([1, 2], [3, 4], [5, 6]))
    mean, var = x.mean((0, 2), dtype=np.float64)[column], x.var((0, 2), dtype=np.float64)[column]
    want = ((x - mean) / np.sqrt(var + EPSILON) * g + b) * m
    np.testing.assert_allclose(session(updated, None).run(None, {"x": x})[0], want, rtol=1e-5, atol=1e-5)
    with pytest.raises(OnnxCbpError, match="'v' as a running statistic and as scale or bias"):
        onnx_cbp.update_bn(parse(_SHARED.replace("Add (t, b)", "Add (t, v)")), [x])


def test_tensors_that_a_tool_made_one_are_taken_apart():
    weights = _weights()
    for name in ("mean2", "beta1"):
        weights[name] = weights["mean1"]
    weights = {name: value for name, value in weights.items() if name not in ("mean2", "beta1")}
    model = _model(weights=weights)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in ("mean2", "beta1"):
                node.input[index] = "mean1"
    got = onnx_cbp.update_bn(model, _batches())
    values = {t.name: numpy_helper.to_array(t) for t in got.graph.initializer}
    np.testing.assert_array_equal(values["mean1"], weights["mean1"], "beta is what it was")
    first, second = (n for n in got.graph.node if n.op_type == "BatchNormalization")
    a = [x.astype(np.float64) @ weights["w1"] for x in _batches()]
    np.testing.assert_allclose(values[first.input[3]], np.mean([v.mean(axis=0) for v in a], axis=0), rtol=1e-5)
    assert len({first.input[3], second.input[3], "mean1"}) == 3


def test_a_bias_that_is_the_running_mean_stays():
    weights = _weights()
    model = _model(weights={name: value for name, value in weights.items() if name != "beta1"})
    first = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    first.input[2] = "mean1"
    got = onnx_cbp.update_bn(model, _batches())
    values = {t.name: numpy_helper.to_array(t) for t in got.graph.initializer}
    first = next(n for n in got.graph.node if n.op_type == "BatchNormalization")
    np.testing.assert_array_equal(values[first.input[2]], weights["mean1"])
    a = [x.astype(np.float64) @ weights["w1"] for x in _batches()]
    np.testing.assert_allclose(values[first.input[3]], np.mean([v.mean(axis=0) for v in a], axis=0), rtol=1e-5)


@pytest.mark.parametrize("form", ["inference", "training"])
def test_calls_of_a_module_without_scale_and_bias_have_ones_and_zeros_of_their_own(form):
    weights = {n: v for n, v in _weights().items() if n[:-1] not in ("gamma", "beta") and n not in ("mean2", "var2")}
    model = _model(form, weights)
    ones = []
    for number, node in enumerate(n for n in model.graph.node if n.op_type == "BatchNormalization"):
        for index, value in ((1, 1.0), (2, 0.0)):
            tensor = numpy_helper.from_array(np.full(3, value, np.float32))
            ones.append(onnx.helper.make_node("Constant", [], [f"c{number}{index}"], value=tensor))
        node.input[1:] = [f"c{number}1", f"c{number}2", "mean1", "var1"]
    for node in reversed(ones):
        model.graph.node.insert(0, node)
    got = {t.name: numpy_helper.to_array(t) for t in onnx_cbp.update_bn(model, _batches()).graph.initializer}
    assert set(got) == set(weights)
    means = []
    for x in _batches():
        a = x.astype(np.float64) @ weights["w1"]
        b = (a - a.mean(axis=0)) / np.sqrt(a.var(axis=0) + EPSILON)
        means += [a.mean(axis=0), (np.maximum(b, 0) @ weights["w2"]).mean(axis=0)]
    np.testing.assert_allclose(got["mean1"], np.mean(means, axis=0), rtol=1e-5, atol=1e-5)


def test_one_module_that_is_called_twice_takes_the_average_of_its_calls():
    weights = _weights()
    model = _model()
    second = [n for n in model.graph.node if n.op_type == "BatchNormalization"][1]
    second.input[1:] = ["gamma1", "beta1", "mean1", "var1"]
    got = {t.name: numpy_helper.to_array(t) for t in onnx_cbp.update_bn(model, _batches()).graph.initializer}
    means = []
    for x in _batches():
        a = x.astype(np.float64) @ weights["w1"]
        means.append(a.mean(axis=0))
        b = weights["gamma1"] * (a - a.mean(axis=0)) / np.sqrt(a.var(axis=0) + EPSILON) + weights["beta1"]
        means.append((np.maximum(b, 0) @ weights["w2"]).mean(axis=0))
    np.testing.assert_allclose(got["mean1"], np.mean(means, axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize(
    ("paths", "mean", "modules"),
    [
        (("a", "b"), (0.0, 0.0), 2),  # an exporter merged equal tensors of a fresh network
        (("a", "a"), (0.0, 0.0), 1),
        (("a", "b"), (0.5, -1.0), 1),  # trained, so equal in every bit only if it is one module under two names
    ],
)
def test_module_paths_tell_merged_statistics_from_a_module_that_is_called_twice(paths, mean, modules, rewritten):
    model = parse("""
<ir_version: 8, opset_import: ["" : 15]>
agraph (float[N, 2] x) => (float[N, 2] y)
<float[2] one = {1, 1}, float[2] zero = {0, 0}, float[2] m = {0, 0}, float[2, 2] w = {1, 2, -1, 1}>
{
    p, m1, v1 = BatchNormalization <training_mode: int = 1> (x, one, zero, m, one)
    q = Relu (p)
    z = MatMul (q, w)
    y, m2, v2 = BatchNormalization <training_mode: int = 1> (z, one, zero, m, one)
}""")
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.array(mean, np.float32), "m"))
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    for node, path in zip(norms, paths, strict=True):
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{path}', 'batch_norm']")
    if rewritten:
        model = onnx_cbp.rewrite(model)
    x = np.random.default_rng(0).normal(3.0, 2.0, (9, 2)).astype(np.float32)
    got = onnx_cbp.update_bn(model, [x])
    values = {t.name: numpy_helper.to_array(t) for t in got.graph.initializer}
    z = np.maximum((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5), 0) @ np.array([[1, 2], [-1, 1]])
    means, read = [x.mean(axis=0), z.mean(axis=0)], [n.input[3] for n in got.graph.node if len(n.input) == 5]
    if modules == 1:
        means = [np.mean(means, axis=0)] * 2
    for name, wanted in zip(read, means, strict=True):
        np.testing.assert_allclose(values[name], wanted, rtol=1e-4)


@pytest.mark.parametrize("switches", [None, {}, {"one_pass": False}], ids=str)
def test_one_module_that_is_given_the_same_twice(switches):
    """The second call goes on from what the first one left: that is no statistic of the batch."""
    model = parse("""
<ir_version: 8, opset_import: ["" : 15]>
agraph (float[N, 2] x) => (float[N, 2] y, float[2] m2, float[2] v2)
<float[2] g = {1, 1}, float[2] b = {0, 0}, float[2] m = {0, 0}, float[2] v = {1, 1}>
{
    p, m1, v1 = BatchNormalization <training_mode: int = 1> (x, g, b, m, v)
    q, m2, v2 = BatchNormalization <training_mode: int = 1> (x, g, b, m1, v1)
    y = Add (p, q)
}""")
    if switches is not None:
        model = onnx_cbp.rewrite(model, **switches)
    x = np.random.default_rng(0).normal(3.0, 2.0, (9, 2)).astype(np.float32)
    got = {t.name: numpy_helper.to_array(t) for t in onnx_cbp.update_bn(model, [x]).graph.initializer}
    np.testing.assert_allclose(got["m"], x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(got["v"], x.var(axis=0, ddof=1), rtol=1e-5)


def test_of_a_function_that_is_called_twice():
    """Two calls are two modules where their scales differ; statistics that are no initializers become such."""
    model = parse("""
<ir_version: 8, opset_import: ["" : 15, "f" : 1]>
agraph (float[N, 2] x) => (float[N, 2] y)
{
    one = Constant <value = float[2] {1.0, 1.0}> ()
    zero = Constant <value = float[2] {0.0, 0.0}> ()
    two = Add (one, one)
    z = f.bn (x, one, zero)
    y = f.bn (z, two, zero)
}
<domain: "f", opset_import: ["" : 15]>
bn (x, scale, zero) => (y) { y = BatchNormalization (x, scale, zero, zero, scale) }
""")
    x = np.random.default_rng(0).normal(3.0, 2.0, (9, 2)).astype(np.float32)
    got = onnx_cbp.update_bn(model, [x])
    values = {t.name: numpy_helper.to_array(t) for t in got.graph.initializer}
    first, second = (n for n in got.graph.node if n.op_type == "BatchNormalization")
    np.testing.assert_allclose(values[first.input[3]], x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(values[first.input[4]], x.var(axis=0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(values[second.input[3]], np.zeros(2), atol=1e-6)
    np.testing.assert_allclose(values[second.input[4]], np.full(2, 9 / 8), rtol=1e-4)
    again = onnx_cbp.update_bn(got, [x, 3 * x], exact=True)
    assert {t.name for t in again.graph.initializer} == set(values)


BAD = {
    "no batches": (_model, [], {}, "there are no batches"),
    "an input that is none": (_model, [{"z": 1}], {}, "'z' is no input of the model"),
    "nothing fed": (_model, [{}], {}, "batch 0: nothing is fed to 'x'"),
    "a shape that does not fit": (_model, [np.zeros((2, 5), np.float32)], {}, "batch 0: the model cannot be run"),
    "not finite": (_model, [np.full((2, 4), np.nan, np.float32)], {}, "batch 0: the statistics of .* are not finite"),
    "both": (_model, [], {"exact": True, "momentum": 0.5}, "momentum and exact exclude each other"),
    "momentum": (_model, [], {"momentum": 2}, "momentum is 2: use a number from 0 to 1"),
    "one element a channel": (
        _model,
        [*_batches(), np.ones((1, 4), np.float32)],
        {},
        "batch 3: .* one element a channel",
    ),
    "one element in all": (_model, [np.ones((1, 4), np.float32)], {"exact": True}, "one element a channel in all"),
    "all empty": (_model, [np.zeros((0, 4), np.float32)], {}, "all batches of .* are empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(case):
    make, batches, options, message = BAD[case]
    with pytest.raises(onnx_cbp.OnnxCbpError, match=message) as error:
        onnx_cbp.update_bn(make(), batches, **options)
    assert "\n" not in str(error.value)


def test_statistics_that_are_inputs_need_a_checkpoint():
    model = _model()
    kept = [t for t in model.graph.initializer if t.name != "mean1"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.input.append(onnx.helper.make_tensor_value_info("mean1", onnx.TensorProto.FLOAT, [3]))
    with pytest.raises(onnx_cbp.OnnxCbpError, match="'mean1', which is an input of the graph: give the checkpoint"):
        onnx_cbp.update_bn(model, _batches())


def test_a_batch_norm_in_a_subgraph_is_named():
    model = parse("""
<ir_version: 8, opset_import: ["" : 15]>
agraph (float[N, 3] x, bool c) => (float[N, 3] y)
<float[3] one = {1.0, 1.0, 1.0}>
{
    y = If (c) <
        then_branch = t () => (float[N, 3] a) { a = BatchNormalization (x, one, one, one, one) },
        else_branch = e () => (float[N, 3] b) { b = Identity (x) }
    >
}
""")
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"'a' .* stands in a subgraph"):
        onnx_cbp.update_bn(model, [])


def test_a_vector_is_refused_before_anything_runs():
    """Of a model that makes 8 GB of them, running it took 20 seconds."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["" : 15]> agraph (float[N] x) => (float[100] y)
        <float[1] one = {1}, int64[1] size = {100}>
        {
            many = Expand (one, size)
            y = BatchNormalization (many, one, one, one, one)
        }
        """
    )
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"'many' has shape \[100\]: batch norm needs rank 2 or more"):
        onnx_cbp.update_bn(model, [])


@pytest.mark.parametrize(("dtype", "name"), [("string", "STRING"), ("int64", "INT64"), ("bool", "BOOL")])
def test_data_that_are_no_floats_are_refused_before_anything_runs(dtype, name):
    model = parse(f"""
        <ir_version: 8, opset_import: ["" : 15]> agraph ({dtype}[N, 1, 2] x) => (float[N, 1, 2] y)
        <float[1] one = {{1}}> {{ z = Neg (x)  y = BatchNormalization (z, one, one, one, one) }}""")
    with pytest.raises(onnx_cbp.OnnxCbpError, match=f"'z' has type {name}: batch norm needs floating-point numbers"):
        onnx_cbp.update_bn(model, [])


def test_data_that_no_memory_holds_are_refused_before_anything_runs():
    """What they are made of may well fit: of this model 8 GB, for which running it took 15 seconds."""
    model = parse(
        """
        <ir_version: 8, opset_import: ["" : 15]> agraph (float[N, 4] x) => (float[4, many] y)
        <float[4, 1] column = {1, 2, 3, 4}, float[4] four = {1, 1, 1, 1}, int64[1] size = {4611686018427387}>
        {
            row = ConstantOfShape (size)
            table = Add (column, row)
            flat = Transpose <perm = [1, 0]> (table)
            y = BatchNormalization (flat, four, four, four, four)
        }
        """
    )
    line = r"'flat' has shape \[4611686018427387, 4\], 73786976 GB, and this machine has \d+ GB of memory: measure on a"
    with pytest.raises(onnx_cbp.OnnxCbpError, match=line):
        onnx_cbp.update_bn(model, [])


def test_nothing_to_update_is_said():
    model = parse('<ir_version: 8, opset_import: ["" : 15]> agraph (float[N] x) => (float[N] y) { y = Relu (x) }')
    with pytest.raises(onnx_cbp.OnnxCbpError, match="no batch norm with running statistics"):
        onnx_cbp.update_bn(model, [])


def test_what_depends_on_an_updated_statistic_is_refused():
    """Its layer normalises by the batch while statistics are taken, and updates none."""
    model = parse("""
<ir_version: 8, opset_import: ["" : 15]>
agraph (float[N, 2, L] x) => (float[N, 2, L] y)
<float[2] ones = {1, 1}, float[2] zeros = {0, 0}, float[2] m = {0.5, 1}, float[2] v = {2, 3},
 float[2] m2 = {0, 1}, float[2] v2 = {1, 2}>
{
    a, mean, var = BatchNormalization <training_mode: int = 1> (x, ones, zeros, m, v)
    b, mean2, var2 = BatchNormalization <training_mode: int = 1> (a, var, zeros, m2, v2)
    y = Relu (b)
}
""")
    batch = {"x": np.ones((2, 2, 3), np.float32)}
    with pytest.raises(
        OnnxCbpError, match=r"^[^\n]*reads 'var', a statistic that the batch norm [^\n]* updates[^\n]*$"
    ):
        onnx_cbp.update_bn(model, [batch])


def test_statistics_that_are_repeated_for_each_sample_are_refused():
    """So PyTorch's default exporter writes an instance norm with running statistics; as one tensor, they would be those
    of a single size of batches."""
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2, H, W] x) => (float[N, 2, H, W] y)
<float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {1, 2}, float[2] v = {1, 3},
 int64[1] first = {0}, int64[1] second = {1}, int64[4] flat = {1, -1, 4, 5}, int64[4] back = {-1, 2, 4, 5}>
{
    sizes = Shape (x)
    samples = Slice (sizes, first, second)
    scales = Tile (s, samples) biases = Tile (b, samples) means = Tile (m, samples) vars = Tile (v, samples)
    r = Reshape (x, flat)
    n = BatchNormalization (r, scales, biases, means, vars)
    y = Reshape (n, back)
}
""")
    batches = [np.random.default_rng(0).normal(size=(size, 2, 4, 5)).astype(np.float32) for size in (3, 2)]
    with pytest.raises(onnx_cbp.OnnxCbpError, match="'n' computes its running statistic 'means' of what is fed to 'x'"):
        onnx_cbp.update_bn(model, batches)
