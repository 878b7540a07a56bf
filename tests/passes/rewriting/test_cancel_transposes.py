"""Pairs of transposes that leave everything where it was, and batch norms that meet their convolutions without them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_cbp
from onnx_cbp.graph_passes import CancelTransposesPass
from support.models import op_types, parse
from support.ops import session

CHANNELS_LAST = """
<ir_version: 8, opset_import: ["" : 13]>
agraph (float[N, 6, 5, 2] x) => (float[N, 6, 5, 3] y)
<float[3, 2, 1, 1] w = {1.0, 2.0, 3.0, -4.0, 5.0, 6.0}, float[3] gamma = {1.5, 0.5, -2.0},
 float[3] beta = {0.5, 0.0, 1.0}, float[3] mean = {1.0, -2.0, 0.25}, float[3] var = {0.5, 4.0, 1.0},
 float epsilon = {0.001}>
{
    t = Transpose <perm = [0, 3, 1, 2]> (x)
    c = Conv (t, w)
    h = Transpose <perm = [0, 2, 3, 1]> (c)
    BODY
}
"""
BATCH_NORMS = {
    "op": """
    n = Transpose <perm = [0, 3, 1, 2]> (h)
    b = BatchNormalization <epsilon: float = 0.001> (n, gamma, beta, mean, var)
    y = Transpose <perm = [0, 2, 3, 1]> (b)""",
    "arithmetic": """
    shifted = Add (var, epsilon)  std = Sqrt (shifted)  r = Reciprocal (std)  k = Mul (r, gamma)
    hk = Mul (h, k)  mk = Mul (mean, k)  o = Sub (beta, mk)  y = Add (hk, o)""",
}


@pytest.mark.parametrize("body", BATCH_NORMS.values(), ids=BATCH_NORMS)
def test_a_channels_last_batch_norm_is_folded_into_its_convolution(body):
    model = parse(CHANNELS_LAST.replace("BODY", body))
    done: list[onnx_cbp.Finalized] = []
    final = onnx_cbp.finalize(model, report=done.append)
    assert op_types(final) == ["Transpose", "Conv", "Transpose"]
    assert done[0].folded == 1
    x = np.random.default_rng(0).normal(0, 2, (3, 6, 5, 2)).astype(np.float32)
    (want,), (got,) = (session(m, None).run(None, {"x": x}) for m in (model, final))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_what_a_node_without_inputs_gives_is_left_alone():
    nodes = "k = Constant <value_floats = [1.0, 2.0]> () y = Transpose <perm = [0]> (k)"
    model = ir.from_proto(parse(f'<ir_version: 8, opset_import: ["": 17]> g () => (float[2] y) {{ {nodes} }}'))
    assert not CancelTransposesPass()(model).modified


@pytest.mark.parametrize("axes", [[0, -1, 1, 2], [0, 3, 1, 7], [0, 3, 3, 1], [-9, 3, 1, 2]])
def test_axes_that_are_no_permutation_are_left_alone(axes):
    """onnx lets them pass where a Transpose has another domain's opset; onnx-ir reads them as they are."""
    nodes = f"b = Transpose <perm = [0, 2, 3, 1]> (x) y = Transpose <perm = {axes}> (b)"
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[2, 2, 2, 2] x) => (float[2, 2, 2, 2] y)'
    model = ir.from_proto(parse(f"{head} {{ {nodes} }}"))
    assert not CancelTransposesPass()(model).modified


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("a = Neg (x) b = Transpose <perm = [1, 2, 0]> (a) y = Transpose <perm = [2, 0, 1]> (b)", ["Neg"]),
        ("b = Transpose <perm = [1, 2, 0]> (x) c = Transpose <perm = [2, 0, 1]> (b) y = Neg (c)", ["Neg"]),
        (
            "b = Transpose <perm = [1, 2, 0]> (x) c = Transpose <perm = [2, 0, 1]> (b)"
            " d = Transpose <perm = [2, 0, 1]> (b) y = Add (c, d)",
            ["Add"],
        ),
        ("b = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [2, 0, 1]> (b)", ["Transpose"] * 2),
        (
            "a = Neg (x) b = Transpose <perm = [1, 2, 0]> (a) y = Transpose <perm = [1, 2, 0]> (b)",
            ["Neg"] + ["Transpose"] * 2,
        ),
        ("a = Neg (x) b = Transpose (a) y = Transpose (b)", ["Neg"] + ["Transpose"] * 2),
    ],
    ids=["an output", "inside", "two of one", "the data itself", "not the inverse", "reversed"],
)
def test_only_what_undoes_the_one_before(nodes, left):
    text = f'<ir_version: 8, opset_import: ["" : 13]> agraph (float[A, B, C] x) => (float[D, E, F] y) {{ {nodes} }}'
    before = ir.from_proto(parse(text))
    result = CancelTransposesPass()(before)
    again = CancelTransposesPass()(result.model)
    model = ir.to_proto(result.model)
    onnx.checker.check_model(model)
    assert result.modified == (op_types(model).count("Transpose") < op_types(parse(text)).count("Transpose"))
    assert not again.modified
    final = onnx_cbp.finalize(parse(text))
    assert op_types(final) == left
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 4)).astype(np.float32)
    (want,), (got,) = (session(m, None).run(None, {"x": x}) for m in (parse(text), final))
    np.testing.assert_array_equal(got, want)
