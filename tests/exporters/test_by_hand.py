"""A batch norm that JAX code spells out, by jax2onnx: it is not recognised, so nothing is done with it unsaid."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_cbp import OnnxCbpError, finalize, inspect, rewrite
from support.ops import session
from support.training import MODELS


@pytest.fixture
def model() -> onnx.ModelProto:
    made = onnx.load(MODELS / "exporters" / "jax_by_hand.onnx")
    made.ir_version = min(made.ir_version, 9)  # the oldest ONNX Runtime under test reads no newer one
    return made


def by_hand(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    normal = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-3)
    return np.maximum(normal * [0.5, 1.0, 1.5] + [0.1, -0.2, 0.3], 0)


def test_synchronize_refuses_it(model):
    assert inspect(model) == []
    with pytest.raises(OnnxCbpError, match="together over the samples of a batch") as refused:
        rewrite(model, synchronize=True)
    assert "no part of a batch norm that is known" in str(refused.value)


@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize("verb", [rewrite, finalize])
def test_it_computes_what_it_did(model, verb, samples):
    x = np.random.default_rng(samples).normal(2, 3, (samples, 6, 6, 3)).astype(np.float32)
    (got,) = session(verb(model), "auto").run(None, {"x": x})
    np.testing.assert_allclose(got, by_hand(x), rtol=1e-5, atol=1e-5)


def test_at_inference_one_line_says_that_samples_are_taken_together(model, caplog):
    finalize(model)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "onnx_cbp"]
    assert "(ReduceSum) takes values together along the first axis of the inputs, as 2 more do" in said
