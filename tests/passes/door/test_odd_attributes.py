"""Attributes of a batch norm that ONNX Runtime takes and that mean nothing: what is rewritten still runs."""

from __future__ import annotations

import numpy as np
import pytest

import onnx_cbp
from support.models import FORWARD, op_types, parse
from support.ops import session

pytestmark = pytest.mark.native
NUMBERS = [float("nan"), float("inf"), -1.0, 1.5]


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("name", ["epsilon", "momentum"])
def test_the_rewritten_model_runs_where_the_original_does(name, value, one_pass):
    model = parse(FORWARD)
    (attribute,) = [each for node in model.graph.node for each in node.attribute if each.name == name]
    attribute.f = value
    rewritten = onnx_cbp.rewrite(model, one_pass=one_pass)
    ones = np.ones(3, np.float32)
    x = np.random.default_rng(0).normal(1, 2, (4, 3, 2, 2)).astype(np.float32)
    feeds = {"x": x, "gamma": ones, "beta": ones, "mean": 0 * ones, "var": ones}
    (want, got) = (session(each, "native").run(None, feeds) for each in (model, rewritten))
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
    if name == "epsilon" and value != 1.5:
        assert op_types(rewritten) == op_types(model)
        (site,) = onnx_cbp.inspect(model)
        assert "its epsilon is" in str(site)


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize("in_branch", [False, True])
def test_a_norm_that_leaves_its_axes_out_hides_no_shapes(opset, in_branch):
    """From opset 13 on onnx infers nothing for a model with such a node, and arithmetic needs the rank of its data."""
    norm = "n = MeanVarianceNormalization (x)"
    if in_branch:
        norm = f"""n = If (yes) <then_branch = t () => (float[N, 3, H, W] n) {{ {norm} }},
            else_branch = e () => (float[N, 3, H, W] k) {{ k = Neg (x) }}>"""
    model = parse(f"""<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N, 3, H, W] x, bool yes) => (float[N, 3, H, W] y)
<float[3, 1, 1] s = {{1, 2, 3}}, float[3, 1, 1] b = {{0, 0.5, 1}}, float[3, 1, 1] m = {{1, 2, 3}},
 float[3, 1, 1] v = {{1, 2, 4}}, float e = {{0.00001}}>
{{
    {norm} r = Neg (n) c = Sub (r, m) o = Add (v, e) d = Sqrt (o) q = Div (c, d) p = Mul (q, s) y = Add (p, b)
}}""")
    assert len(onnx_cbp.inspect(model)) == 1
    finished = onnx_cbp.finalize(model)
    assert "BatchNormalization" in op_types(finished)
    x = np.random.default_rng(0).normal(1, 2, (4, 3, 2, 2)).astype(np.float32)
    feeds = {"x": x, "yes": np.array(True)}
    (want,), (got,) = (
        session(each, None).run(None, {i.name: feeds[i.name] for i in each.graph.input}) for each in (model, finished)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
