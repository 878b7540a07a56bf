"""Einsum broadcasts a size of 1, and onnx infers 1 for the result."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_cbp.graph_passes import SqueezeEinsumsPass
from support.models import op_types
from support.ops import session
from support.stepping import Training, network, slopes

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
product (float[N, 3, 2] x) => (float loss)
{
    first = Einsum <equation: string = "EQUATION"> (w, x)  curved = Tanh (first)
    second = Einsum <equation: string = "...ij,...ij->..."> (v, curved)
    square = Mul (second, second)  loss = ReduceMean <keepdims: int = 0> (square)
}"""


def product(equation: str, *shape: int):
    rng = np.random.default_rng(1)
    values = {"w": rng.normal(size=shape).astype(np.float32)}
    values["v"] = rng.normal(size=(1, *(shape[1:2] or (3,)), 2)).astype(np.float32)
    return network(MODEL.replace("EQUATION", equation), values), values


@pytest.mark.native
@pytest.mark.parametrize(
    ("equation", "shape"),
    [("bij,bjk->bik", (1, 4, 3)), ("...ij,...jk", (1, 4, 3)), ("bij,bjk->bik", (1, 4, 1)), ("b,bjk->bjk", (1,))],
)
def test_the_mean_is_over_all_samples(equation, shape, tmp_path):
    model, values = product(equation, *shape)
    trained = Training(model, tmp_path, loss="loss")
    x = np.random.default_rng(2).normal(size=(5, 3, 2)).astype(np.float32)

    def loss(v):
        return ((np.tanh(np.einsum(equation, v["w"], x.astype(float))) * v["v"]).sum((1, 2)) ** 2).mean()

    got, gradients = trained.gradients(x)
    assert got == pytest.approx(loss(values), rel=1e-5)
    for name, want in slopes(loss, values).items():
        np.testing.assert_allclose(gradients[name], want, rtol=1e-4, atol=1e-5)


def test_only_what_broadcasts_is_squeezed():
    model, _ = product("bij,bjk->bik", 1, 4, 3)
    changed = ir.from_proto(model)
    assert SqueezeEinsumsPass()(changed).modified
    result = ir.to_proto(changed)
    equations = [node.attribute[0].s.decode() for node in result.graph.node if node.op_type == "Einsum"]
    assert equations == ["ij,bjk->bik", "ij,aij->a"]
    assert op_types(result).count("Squeeze") == 2
    x = np.random.default_rng(3).normal(size=(4, 3, 2)).astype(np.float32)
    want, got = (session(each, "auto").run(None, {"x": x})[0] for each in (model, result))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert not SqueezeEinsumsPass()(changed).modified
