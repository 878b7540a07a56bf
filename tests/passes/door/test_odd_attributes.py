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
