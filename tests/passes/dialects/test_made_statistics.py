"""Batch norms in inference form whose statistics the graph makes: of the batch, of a part of it, of something else."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError, distributed, inspect, rewrite
from support.made_up.made_statistics import (
    OF_THE_BATCH,
    OTHERS,
    SHAPES,
    C,
    Graph,
    instance_norm,
    layer_norm,
    standardised_weight,
    tensorflow,
)
from support.models import op_types
from support.ops import session

FORM = "statistics of its batch)"


def name(function) -> str:
    return function.__name__


def data(model: onnx.ModelProto, seed: int, samples: int = 6) -> np.ndarray:
    """Samples with a mean of their own, so that which of them are in a statistic counts."""
    dims = [d.dim_value or samples for d in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(seed)
    return (rng.normal(size=dims) + np.arange(dims[0]).reshape(-1, *[1] * (len(dims) - 1))).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray, backend: str | None = None) -> list[np.ndarray]:
    return session(model, backend).run(None, {"x": x})


def of_the_batch(statistics, rank: int, opset: int, batch: int | str = "N") -> onnx.ModelProto:
    g = Graph(rank, opset, batch)
    h = g.op("Mul", "x", g.constant(2.0))
    return g.model(g.op("Relu", g.batch_norm(h, *statistics(g, h))))


@pytest.mark.parametrize("statistics", OF_THE_BATCH, ids=name)
@pytest.mark.parametrize("rank", SHAPES)
def test_of_the_batch_it_trains(statistics, rank):
    for opset, batch in itertools.product((12, 15, 18), ("N", 6)):
        model = of_the_batch(statistics, rank, opset, batch)
        (found,) = inspect(model)
        assert (found.node, found.rewritten, found.form.endswith(FORM)) == ("bn", True, True)
        assert "it has no running statistics" in found.explanation
        rewritten = rewrite(model)
        onnx.checker.check_model(rewritten, full_check=True)
        kinds = op_types(rewritten)
        assert "BatchNormTrain" in kinds
        assert not any(kind.startswith(("Reduce", "Global")) for kind in kinds), "nothing reads what made them"
        x = data(model, rank)
        for got, want in zip(run(rewritten, x, "auto"), run(model, x), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        assert rewrite(rewritten) == rewritten


@pytest.mark.parametrize("statistics", OF_THE_BATCH, ids=name)
def test_of_the_batch_it_is_synchronized(statistics):
    model = of_the_batch(statistics, 4, 17)
    x = data(model, 1)
    (want,) = run(model, x)
    together = rewrite(model, synchronize=True)

    def replica():
        return run(together, x[:2] if distributed.rank() == 0 else x[2:], "auto")[0]

    got = np.concatenate(distributed.run_replicas(replica, 2, timeout=30))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("statistics", OF_THE_BATCH, ids=name)
def test_update_bn_leaves_statistics_of_the_batch(statistics):
    """As torch.optim.swa_utils.update_bn leaves a layer without running statistics."""
    g = Graph()
    first = g.batch_norm("x", *statistics(g, "x"), name="first")
    y = g.batch_norm(first, g.constant(np.zeros(C)), g.constant(np.ones(C)), name="second")
    model = g.model(first, y)
    updated = onnx_cbp.update_bn(model, [data(model, seed) for seed in range(3)])
    x = 5 + 2 * data(model, 9)
    before, after = run(model, x), run(updated, x)
    np.testing.assert_array_equal(before[0], after[0])
    assert abs(before[1] - after[1]).max() > 1e-2, "the other one's are new"
    with pytest.raises(OnnxCbpError, match="no batch norm with running statistics"):
        onnx_cbp.update_bn(of_the_batch(statistics, 4, 17), [x])


def test_what_reads_the_statistics_behind_it_goes_on_doing_so():
    g = Graph()
    mean, var = tensorflow(g, "x")
    y = g.batch_norm("x", mean, var)
    tracked = [g.op("Mul", value, g.constant(0.1)) for value in (mean, var)]
    model = g.model(y, *tracked)
    rewritten = rewrite(model)
    assert not any(kind.startswith("Reduce") for kind in op_types(rewritten))
    x = data(model, 0)
    for got, want in zip(run(rewritten, x, "auto"), run(model, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrap", ["Identity", "Reshape", "Unsqueeze", "Cast", "computed"])
def test_parameters_stay_running_statistics(wrap, dtype):
    g = Graph(dtype=dtype)
    mean, var = g.constant(np.linspace(-1, 1, C)), g.constant(np.linspace(0.5, 2, C))
    if wrap == "Identity":
        mean, var = g.op("Identity", mean), g.op("Identity", g.op("Identity", var))
    elif wrap == "Reshape":
        mean, var = (g.op("Reshape", value, g.integers([-1])) for value in (mean, var))
    elif wrap == "Unsqueeze":
        mean, var = (g.squeeze(g.op("Unsqueeze", value, g.integers([0])), [0]) for value in (mean, var))
    elif wrap == "Cast":
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        mean, var = (g.op("Cast", value, to=kind) for value in (mean, var))
    else:
        var = g.op("Mul", var, var)
    model = g.model(g.batch_norm("x", mean, var))
    (found,) = inspect(model)
    assert "it normalises with running statistics, so it is frozen" in found.explanation
    assert rewrite(model) == model


def test_parameters_that_data_are_made_with_too():
    """Exporters merge equal initializers: the bias of a convolution may be the running mean of the batch norm."""
    g = Graph(2)
    shared = g.constant(np.linspace(-1, 1, C))
    h = g.op("Add", "x", shared)
    model = g.model(g.batch_norm(h, shared, g.constant(np.ones(C))))
    assert "frozen" in inspect(model)[0].explanation


def layers(rank: int = 4, opset: int = 17) -> dict[str, onnx.ModelProto]:
    """What is no batch norm, though it has the form of one."""
    models = {}
    for title, make in (("layer", layer_norm), ("instance", instance_norm)):
        g = Graph(rank, opset)
        models[title] = g.model(make(g, "x"))
    g = Graph(4, opset)
    weight = g.constant(np.random.default_rng(0).normal(size=(C, C, 1, 1)), name="weight")
    models["weight"] = g.model(g.op("Conv", "x", standardised_weight(g, weight, (C, C, 1, 1))))
    return models


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("opset", [12, 17, 18])
@pytest.mark.parametrize("kind", ["layer", "instance", "weight"])
def test_of_a_part_of_the_batch_it_is_none(kind, rank, opset):
    model = layers(rank, opset)[kind]
    assert inspect(model) == []
    assert rewrite(model) == model
    assert rewrite(model, synchronize=True) == model, "samples do not meet in it"
    with pytest.raises(OnnxCbpError, match="no batch norm with running statistics"):
        onnx_cbp.update_bn(model, [data(model, 0)])
    with pytest.raises(OnnxCbpError, match="chooses no batch norm"):
        rewrite(model, train="*")
    x = data(model, 3)
    np.testing.assert_allclose(run(onnx_cbp.finalize(model), x)[0], run(model, x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("statistics", OTHERS, ids=name)
@pytest.mark.parametrize("rank", [3, 4])
def test_of_something_else_it_stays_and_says_so(statistics, rank):
    g = Graph(rank)
    model = g.model(g.batch_norm("x", *statistics(g, "x")))
    (found,) = inspect(model)
    assert not found.rewritten
    assert "is made in the graph, and is neither a parameter nor that of its batch" in found.explanation
    assert rewrite(model) == model
    for refused in (
        lambda: rewrite(model, synchronize=True),
        lambda: rewrite(model, train="*"),
        lambda: onnx_cbp.update_bn(model, [data(model, 0)]),
    ):
        with pytest.raises(OnnxCbpError, match=r"node 'bn' .*(mean|variance) 't\d+' is made in the graph"):
            refused()
    x = data(model, 3)
    np.testing.assert_allclose(run(onnx_cbp.finalize(model), x)[0], run(model, x)[0], rtol=1e-5, atol=1e-5)


IN_A_FUNCTION = """<domain: "l", opset_import: ["" : OPSET]> Statistics (X) => (mean, var)
{
    all = ReduceMean <axes = [AXES]> (X)
    centred = Sub (X, all)
    squares = Mul (centred, centred)
    mean = ReduceMean <axes = [AXES], keepdims = 0> (X)
    var = ReduceMean <axes = [AXES], keepdims = 0> (squares)
}"""
WHOLE_IN_A_FUNCTION = """<domain: "l", opset_import: ["" : OPSET]> Norm (X, mean, var) => (Y)
{
    epsilon = Constant <value = float {0.001}> ()
    wide = Add (var, epsilon)
    std = Sqrt (wide)
    centred = Sub (X, mean)
    Y = Div (centred, std)
}"""


@pytest.mark.parametrize(("opset", "of_function"), [(12, 12), (15, 15), (17, 15)])
@pytest.mark.parametrize("rank", SHAPES)
def test_statistics_that_a_function_makes_of_the_batch(rank, opset, of_function):
    shape = ", ".join(["N", *map(str, SHAPES[rank])])
    called = IN_A_FUNCTION.replace("OPSET", str(of_function)).replace(
        "AXES", ", ".join(str(axis) for axis in range(rank) if axis != 1)
    )
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}, "l" : 1]>
        agraph (float[{shape}] x) => (float[{shape}] y) <float[4] s = {{1, 2, 3, 4}}, float[4] b = {{0, 1, 2, 3}}>
        {{ mean, var = l.Statistics (x)  y = BatchNormalization (x, s, b, mean, var) }} {called}"""
    )
    onnx.checker.check_model(model, full_check=True)
    (found,) = inspect(model)
    assert found.rewritten
    assert found.form.endswith(FORM)
    x = data(model, 1)
    (want,) = run(model, x)
    np.testing.assert_allclose(run(rewrite(model), x, "auto")[0], want, rtol=1e-4, atol=1e-4)
    together = rewrite(model, synchronize=True)

    def replica():
        return run(together, x[:2] if distributed.rank() == 0 else x[2:], "auto")[0]

    got = np.concatenate(distributed.run_replicas(replica, 2, timeout=30))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", SHAPES)
def test_a_batch_norm_in_arithmetic_that_is_a_function(rank):
    shape = ", ".join(["N", *map(str, SHAPES[rank])])
    vector = ", ".join(["4", *["1"] * (rank - 2)])
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
        agraph (float[{shape}] x) => (float[{shape}] y)
        <float[{vector}] m = {{1, 2, 3, 4}}, float[{vector}] v = {{1, 2, 3, 4}}>
        {{ y = l.Norm (x, m, v) }} {WHOLE_IN_A_FUNCTION.replace("OPSET", "17")}"""
    )
    (found,) = inspect(model)
    assert found.form == "arithmetic (running statistics)"
    assert rewrite(model) == model
    x = data(model, 2)
    updated = onnx_cbp.update_bn(model, [x], unbiased_running_var=False)
    axes = tuple(axis for axis in range(rank) if axis != 1)
    want = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    np.testing.assert_allclose(run(updated, x)[0], want, rtol=1e-4, atol=1e-4)


BRANCHES = {
    "If": """mean, var = If (c) <
        then_branch = t () => (float[4] m1, float[4] v1) {
            all = ReduceMean <axes = [0, 2, 3]> (x)  d = Sub (x, all)  q = Mul (d, d)
            m1 = ReduceMean <axes = [0, 2, 3], keepdims = 0> (x)
            v1 = ReduceMean <axes = [0, 2, 3], keepdims = 0> (q) },
        else_branch = e () => (float[4] m2, float[4] v2) { m2 = Identity (b)  v2 = Identity (s) }>""",
    "Loop": """mean, var = Loop (n, , b, s) <body = l (int64 i, bool k, float[4] m0, float[4] v0) =>
            (bool k1, float[4] m1, float[4] v1) {
            k1 = Identity (k)  all = ReduceMean <axes = [0, 2, 3]> (x)  d = Sub (x, all)  q = Mul (d, d)
            m1 = ReduceMean <axes = [0, 2, 3], keepdims = 0> (x)
            v1 = ReduceMean <axes = [0, 2, 3], keepdims = 0> (q) }>""",
    "If in an If": """mean, var = If (c) <
        then_branch = t () => (float[4] m1, float[4] v1) {
            m1, v1 = If (c) <
                then_branch = tt () => (float[4] m3, float[4] v3) {
                    q = Mul (x, x)
                    m3 = ReduceMean <axes = [0, 2, 3], keepdims = 0> (x)
                    v3 = ReduceMean <axes = [0, 2, 3], keepdims = 0> (q) },
                else_branch = ee () => (float[4] m4, float[4] v4) { m4 = Identity (b)  v4 = Identity (s) }> },
        else_branch = e () => (float[4] m2, float[4] v2) { m2 = Identity (b)  v2 = Identity (s) }>""",
}


@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("fed", [False, True])
def test_statistics_that_a_subgraph_makes_of_the_data_are_no_parameters(kind, fed):
    given = "" if fed else ", bool c = {1}"
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 4, 3, 2] x{", bool c" if fed else ""}) => (float[N, 4, 3, 2] y)
        <float[4] s = {{1, 2, 3, 4}}, float[4] b = {{0, 1, 2, 3}}, int64 n = {{2}}{given}>
        {{ {BRANCHES[kind]}  y = BatchNormalization (x, s, b, mean, var) }}"""
    )
    onnx.checker.check_model(model, full_check=True)
    (found,) = inspect(model)
    assert "is made in the graph, and is neither a parameter nor that of its batch" in found.explanation
    x = data(model, 0)
    for refused in (
        lambda: rewrite(model, synchronize=True),
        lambda: rewrite(model, train="*"),
        lambda: onnx_cbp.update_bn(model, [{"x": x, "c": np.array(True)} if fed else x]),
    ):
        with pytest.raises(OnnxCbpError, match="is made in the graph"):
            refused()
