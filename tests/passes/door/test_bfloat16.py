"""Networks of bfloat16 in opsets in which their ops take none, as exports under autocast are: one line names the op."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp.training import generate_artifacts
from support.models import parse
from support.ops import session

#: The inference of onnx finds no type behind the Conv.
NETWORK = """<ir_version: 8, opset_import: ["" : OPSET]>
agraph (float[N, 3, H, W] x) => (float[N, 3, P, Q] y)
<float[3, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2},
 float[3] m = {1, 2, 3}, float[3] v = {1, 2, 4}>
{
    narrow = Cast <to = 16> (x)
    weight = Cast <to = 16> (w)
    c = Conv (narrow, weight)
    n = BatchNormalization (c, s, b, m, v)
    y = Cast <to = 1> (n)
}
"""
LINE = r"node 'c' \(Conv\) gets 'narrow' in bfloat16, which the op takes .*opset.*: export in .*float, without autocast"
X = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)


def _network(opset: int) -> onnx.ModelProto:
    return parse(NETWORK.replace("OPSET", str(opset)))


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(
    "make",
    [
        onnx_cbp.finalize,
        lambda model: onnx_cbp.update_bn(model, [X]),
        lambda model: generate_artifacts(model, loss="MSELoss", optimizer="SGD", builder="onnx_cbp"),
    ],
    ids=["finalize", "update_bn", "generate_artifacts"],
)
def test_an_op_that_takes_none_is_refused(make, opset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(onnx_cbp.OnnxCbpError, match=LINE) as error:
        make(_network(opset))
    assert "\n" not in str(error.value)


def test_a_rewrite_names_it(caplog):
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        onnx_cbp.rewrite(_network(17), train="*")
    assert "node 'c' (Conv) gets 'narrow' in bfloat16" in caplog.text


def test_a_batch_norm_that_takes_none_is_replaced_by_one_that_does(caplog):
    text = NETWORK.replace("c = Conv (narrow, weight)", "c = Identity (narrow)").replace("OPSET", "13")
    model = parse(text)
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        rewritten = onnx_cbp.rewrite(model, train="*")
    assert "bfloat16" not in caplog.text
    (y,) = session(rewritten, "auto").run(None, {"x": X})
    mean, var = (each(X.astype(np.float64), axis=(0, 2, 3), keepdims=True) for each in (np.mean, np.var))
    scale, bias = (np.reshape(each, (1, 3, 1, 1)) for each in ([1, 2, 3], [0, 1, 2]))
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=0.03, atol=0.05)


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 22, reason="this onnx knows no opset in which Conv takes bfloat16")
def test_an_op_without_a_kernel_is_named():
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"node 'c' \(Conv\) gets 'narrow' in bfloat16, for which onnxr"):
        onnx_cbp.update_bn(_network(22), [X])
