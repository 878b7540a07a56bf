"""Layers that share a scale and a bias which nothing trains: ones and zeros, as exports without affine have them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.models import op_types, parse
from support.ops import session

#: Two batch norms with the same constants; of each gradient, only dX is asked for, or only dX and one of the others.
_GRAPH = """
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, L] x, float[3] mean1, float[3] var1, float[3] mean2, float[3] var2, float[N, 3, L] z_grad)
    => (float[N, 3, L] z, float[N, 3, L] x_grad{outputs})
<float[3] ones = {{1.0, 1.0, 1.0}}, float[3] zeros = {{0.0, 0.0, 0.0}}>
{{
    y, m1, v1, saved_mean1, saved_inv_std1 =
        com.microsoft.BatchNormInternal <epsilon: float = 0.001> (x, ones, zeros, mean1, var1)
    s = Sigmoid (y)
    z, m2, v2, saved_mean2, saved_inv_std2 =
        com.microsoft.BatchNormInternal <epsilon: float = 0.001> (s, ones, zeros, mean2, var2)
    s_grad{second} =
        com.microsoft.BatchNormalizationGrad <epsilon: float = 0.001> (z_grad, s, ones, saved_mean2, saved_inv_std2)
    one = Constant <value = float {{1.0}}> ()
    rest = Sub (one, s)
    slope = Mul (s, rest)
    y_grad = Mul (s_grad, slope)
    x_grad{first} =
        com.microsoft.BatchNormalizationGrad <epsilon: float = 0.001> (y_grad, x, ones, saved_mean1, saved_inv_std1)
}}
"""
ASKED = {
    "none": ("", "", ""),
    "scale": (", float[3] g1, float[3] g2", ", g1", ", g2"),
    "bias": (", float[3] b1, float[3] b2", ', "", b1', ', "", b2'),
}


def _model(asked):
    outputs, first, second = ASKED[asked]
    first, second = (part.replace('""', "unused") for part in (first, second))
    model = parse(_GRAPH.format(outputs=outputs, first=first, second=second.replace("unused", "unused2")))
    for node in model.graph.node:
        node.output[:] = ["" if name.startswith("unused") else name for name in node.output]
    return model


def _reference(x, z_grad):
    def normalised(v):
        return (v - v.mean((0, 2), keepdims=True)) / np.sqrt(v.var((0, 2), keepdims=True) + np.float32(1e-3))

    def gradient(dy, v):
        inv_std = 1 / np.sqrt(v.var((0, 2), keepdims=True) + np.float32(1e-3))
        scale_grad = (dy * normalised(v)).sum((0, 2))
        mean = dy.mean((0, 2), keepdims=True) + normalised(v) * (dy * normalised(v)).mean((0, 2), keepdims=True)
        return inv_std * (dy - mean), scale_grad, dy.sum((0, 2))

    s = 1 / (1 + np.exp(-normalised(x)))
    s_grad, g2, b2 = gradient(z_grad, s)
    x_grad, g1, b1 = gradient(s_grad * s * (1 - s), x)
    return {"z": normalised(s), "x_grad": x_grad, "g1": g1, "g2": g2, "b1": b1, "b2": b2}


@pytest.mark.parametrize("switches", [{}, {"one_pass": False}, {"portable": True}, {"synchronize": True}], ids=str)
@pytest.mark.parametrize("asked", ASKED)
def test_gradients_are_those_of_float64(asked, switches):
    rewritten = onnx_cbp.rewrite(_model(asked), **switches)
    onnx.checker.check_model(rewritten, full_check=True)
    assert not {"BatchNormInternal", "BatchNormalizationGrad"} & set(op_types(rewritten))
    for node in list(rewritten.graph.node):  # which only the training build has
        if node.op_type == "InPlaceAccumulatorV2":
            rewritten.graph.node.remove(node)
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(1.0, 2.0, (6, 3, 5)).astype(np.float32) for name in ("x", "z_grad")}
    want = _reference(*(value.astype(np.float64) for value in feeds.values()))
    feeds |= {f"{name}{i}": np.ones(3, np.float32) for name in ("mean", "var") for i in (1, 2)}
    run = session(rewritten, None if switches.get("portable") else "auto")
    for output, value in zip(run.get_outputs(), run.run(None, feeds), strict=True):
        expected = want[output.name]
        np.testing.assert_allclose(value, expected, atol=1e-5 * np.abs(expected).max(), err_msg=output.name)
