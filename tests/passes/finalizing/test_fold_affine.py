"""`finalize` folds one factor and one summand a channel into the weights before them, however they are written."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp import finalize
from support.made_up.made_statistics import C, Graph
from support.models import op_types
from support.ops import session

LAYERS = {
    "Conv": lambda g, W: g.op("Conv", "x", W),
    "Conv with bias": lambda g, W: g.op("Conv", "x", W, g.constant(np.linspace(-1, 1, C))),
    "ConvTranspose": lambda g, W: g.op("ConvTranspose", "x", W),
    "ConvTranspose in groups": lambda g, W: g.op("ConvTranspose", "x", g.constant(np.ones((C, 2, 1, 1))), group=2),
    "Gemm": lambda g, W: g.op("Gemm", "x", W, transB=1),
    "MatMul": lambda g, W: g.op("MatMul", "x", W),
}


def start(layer: str, batch: int | str = "N") -> tuple[Graph, str]:
    g = Graph(2 if layer in ("Gemm", "MatMul") else 4, 17, batch)
    W = g.constant(np.random.default_rng(0).normal(size=(C, C, *[1] * (g.rank - 2))))
    return g, LAYERS[layer](g, W)


def vector(g: Graph, low: float, high: float) -> str:
    return g.constant(np.linspace(low, high, C).reshape(C, *[1] * (g.rank - 2)))


def run(model) -> np.ndarray:
    shape = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return session(model, None).run(None, {"x": x})[0]


def finalized(model, folded: int):
    reports = []
    finished = finalize(model, report=reports.append)
    assert (reports[0].batch_norms, reports[0].folded) == (folded, folded)
    np.testing.assert_allclose(run(finished), run(model), rtol=1e-5, atol=1e-5)
    return finished


SPELLINGS = {
    "x * k + c": lambda g, y: g.op("Add", g.op("Mul", y, vector(g, 0.5, 2)), vector(g, -1, 1)),
    "c + k * x": lambda g, y: g.op("Add", vector(g, -1, 1), g.op("Mul", vector(g, 0.5, 2), y)),
    "(x - m) / s * k + c": lambda g, y: g.op(
        "Add",
        g.op("Mul", g.op("Div", g.op("Sub", y, vector(g, -1, 1)), vector(g, 0.5, 2)), vector(g, -1, 3)),
        vector(g, 2, 1),
    ),
    "c - x * k": lambda g, y: g.op("Sub", vector(g, -1, 1), g.op("Mul", y, vector(g, 0.5, 2))),
    "a number": lambda g, y: g.op("Add", g.op("Mul", y, g.constant(2.0)), g.constant(1.0)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_it_goes_into_the_weights(layer, spelling):
    g, y = start(layer)
    finished = finalized(g.model(g.op("Tanh", SPELLINGS[spelling](g, y))), 1)
    assert not {"Add", "Sub", "Mul", "Div"} & set(op_types(finished))
    g, y = start(layer)
    finalized(g.model(SPELLINGS[spelling](g, y)), 1)  # where the result is the model's


@pytest.mark.parametrize("spelling", ["x * k + c", "(x - m) / s * k + c"])
def test_behind_a_transpose(spelling):
    g, y = start("Conv")
    last = g.op("Transpose", y, perm=[0, 2, 3, 1])
    flat = Graph(2)
    flat.nodes, flat.initializers, flat._names = g.nodes, g.initializers, g._names
    finalized(g.model(g.op("Tanh", SPELLINGS[spelling](flat, last))), 1)


KEPT = {
    "a factor alone": lambda g, y: g.op("Mul", y, vector(g, 0.5, 2)),
    "a summand alone": lambda g, y: g.op("Add", y, vector(g, 0.5, 2)),
    "of another axis": lambda g, y: g.op("Add", g.op("Mul", y, g.constant(np.arange(1.0, 3))), g.constant(np.ones(2))),
    "of the data": lambda g, y: g.op("Add", g.op("Mul", y, "x"), vector(g, 0.5, 2)),
    "divided by": lambda g, y: g.op("Add", g.op("Div", vector(g, 0.5, 2), y), vector(g, 0.5, 2)),
    "squared": lambda g, y: g.op("Add", g.op("Mul", y, y), vector(g, 0.5, 2)),
    "read twice": lambda g, y: g.op("Mul", g.op("Add", g.op("Mul", y, vector(g, 0.5, 2)), vector(g, -1, 1)), y),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_stays(kind):
    g, y = start("Conv")
    model = g.model(g.op("Tanh", KEPT[kind](g, y)))
    assert sorted(op_types(finalized(model, 0))) == sorted(op_types(model))


def test_weights_that_would_be_no_numbers_stay():
    g, y = start("Conv")
    huge = g.constant(np.full((C, 1, 1), 1e38))
    model = g.model(g.op("Tanh", g.op("Add", g.op("Mul", y, huge), g.op("Identity", huge))))
    g2 = finalize(model)
    assert "Mul" in op_types(g2) or np.isfinite(run(g2)).all()
