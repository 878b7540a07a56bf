"""Batch norms in arithmetic by where their statistics come from, and graphs that are deep."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp import OnnxCbpError, finalize, inspect, rewrite
from support.made_up.made_statistics import EPSILON, OF_THE_BATCH, OTHERS, C, Graph, Statistics
from support.models import op_types
from support.ops import session

SAMPLES = 6


def normalised(g: Graph, X: str, statistics: Statistics, *, last: bool) -> str:
    """A batch norm in arithmetic, of the data or of its transpose with the channels last."""
    mean, var = statistics(g, X)
    scale, B = g.constant(np.linspace(0.5, 1.5, C)), g.constant(np.linspace(-1, 1, C))
    slope = g.op("Div", scale, g.op("Sqrt", g.op("Add", var, g.constant(EPSILON))))
    offset = g.op("Sub", B, g.op("Mul", mean, slope))
    if last:
        X = g.op("Transpose", X, perm=[0, *range(2, g.rank), 1])
    else:
        shape = g.integers([C, *[1] * (g.rank - 2)])
        slope, offset = g.op("Reshape", slope, shape), g.op("Reshape", offset, shape)
    return g.op("Add", g.op("Mul", X, slope), offset)


def run(model, backend=None):
    shape = [d.dim_value or SAMPLES for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(1.0, 2.0, shape).astype(np.float32)
    return session(model, backend).run(None, {"x": x})[0]


@pytest.mark.parametrize("statistics", OF_THE_BATCH, ids=lambda function: function.__name__)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_of_the_batch_they_make_one_that_trains(statistics, last):
    for rank, opset, batch in ((4, 17, "N"), (3, 12, SAMPLES), (5, 18, "N"), (2, 15, "N")):
        g = Graph(rank, opset, batch)
        model = g.model(normalised(g, g.op("Relu", "x"), statistics, last=last))
        (found,) = inspect(model)
        assert (found.form, found.rewritten) == ("arithmetic (batch statistics)", True)
        rewritten = rewrite(model)
        assert "BatchNormTrain" in op_types(rewritten)
        assert not any(kind.startswith(("Reduce", "Global")) for kind in op_types(rewritten))
        np.testing.assert_allclose(run(rewritten, "auto"), run(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("statistics", OTHERS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_of_something_else_they_make_none(statistics, last):
    g = Graph()
    model = g.model(normalised(g, "x", statistics, last=last))
    assert inspect(model) == []
    assert rewrite(model) == model


@pytest.mark.parametrize("rank", [3, 4])
def test_rows_of_samples_that_are_channels_make_a_layer_norm(rank):
    g = Graph(rank)
    rows = g.op("Reshape", "x", g.integers([1, -1, int(np.prod(g.shape[1:])), 1]))
    mean = g.mean(rows, [0, 2, 3], 1)
    centred = g.op("Sub", rows, mean)
    std = g.op("Sqrt", g.op("Add", g.mean(g.square(centred), [0, 2, 3], 1), g.constant(EPSILON)))
    model = g.model(g.op("Reshape", g.op("Div", centred, std), g.integers([-1, *g.shape[1:]])))
    assert inspect(model) == []
    assert rewrite(model) == model


@pytest.mark.parametrize("kind", ["Relu", "Add", "Transpose"])
def test_a_deep_graph_ends_no_recursion(kind):
    g = Graph()
    h = "x"
    for _ in range(1200):
        more = (g.constant(np.zeros(C).reshape(C, 1, 1)),) if kind == "Add" else ()
        h = g.op(kind, h, *more, **({"perm": [0, 1, 3, 2]} if kind == "Transpose" else {}))
    model = g.model(normalised(g, h, OF_THE_BATCH[1], last=True))
    assert [found.form for found in inspect(model)] == ["arithmetic (batch statistics)"]
    assert "BatchNormTrain" in op_types(rewrite(model))


@pytest.mark.parametrize("depth", [0, 500])
def test_inference_says_that_statistics_are_those_of_the_batch(depth, caplog):
    g = Graph()
    h = "x"
    for _ in range(depth):
        h = g.op("Relu", h)
    model = g.model(normalised(g, h, OF_THE_BATCH[1], last=True))
    with pytest.raises(OnnxCbpError, match=r"it has no running statistics.*--keep-batch-statistics"):
        finalize(model)
    kept = finalize(model, keep_batch_statistics=True)
    np.testing.assert_allclose(run(kept), run(model), rtol=1e-4, atol=1e-4)
    assert "batch norms without running statistics take those of the batch" in caplog.text
