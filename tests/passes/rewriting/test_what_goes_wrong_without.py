"""The README's table: what stock ONNX Runtime gets wrong, with its figure, and the rewritten model's beside it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.models import FORWARD, parse
from support.ops import session


def _batch_norm(offset: float) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model = parse(FORWARD.replace("momentum: float = 0.8", "momentum: float = 0.0"))
    x = np.random.default_rng(0).normal(size=(16, 3, 28, 28)) + offset
    feeds = {"x": x, "gamma": np.ones(3), "beta": np.zeros(3), "mean": np.zeros(3), "var": np.ones(3)}
    return model, {name: value.astype(np.float32) for name, value in feeds.items()}


def test_variance_at_a_large_offset():
    model, feeds = _batch_norm(1e6)
    want = feeds["x"].astype(np.float64).var((0, 2, 3))

    def error(runner):
        return np.abs(runner.run(["new_var"], feeds)[0] / want - 1).max()

    assert error(session(model, None)) > 1e-4
    assert error(session(onnx_cbp.rewrite(model), "auto")) < 1e-6


def test_y_at_a_large_offset():
    model, feeds = _batch_norm(1e4)
    x = feeds["x"].astype(np.float64)
    want = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-3)

    def error(runner):
        return np.abs(runner.run(["y"], feeds)[0] - want).max()

    assert error(session(model, None)) > 1e-3
    assert error(session(onnx_cbp.rewrite(model), "auto")) < 5e-4


@pytest.mark.parametrize("rewritten", [False, True])
def test_run_changes_what_the_caller_feeds(rewritten):
    model, feeds = _batch_norm(0.0)
    del model.graph.output[1:]
    fed = {name: value.copy() for name, value in feeds.items()}
    if rewritten:
        session(onnx_cbp.rewrite(model), "auto").run(None, fed)
    else:
        session(model, None).run(None, fed)
    changed = [name for name in feeds if not np.array_equal(fed[name], feeds[name])]
    assert changed == ([] if rewritten else ["mean", "var"])
