"""Stock ONNX Runtime computes a fresh batch norm wrongly; the rewritten one is right."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import onnx_cbp
from support.models import fresh_batch_norm
from support.ops import session

X = (5 + 3 * np.random.default_rng(0).normal(size=(2, 4, 3))).astype(np.float32)
WANT = (X - X.mean((0, 2), keepdims=True, dtype=np.float64)) / np.sqrt(
    X.var((0, 2), keepdims=True, dtype=np.float64) + 1e-5
)


def _error(runner):
    return np.abs(runner.run(None, {"x": X})[0] - WANT).max()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_stock_onnx_runtime_gets_it_wrong(momentum):
    model = fresh_batch_norm(momentum)
    assert _error(session(model, None)) > 1.0
    unoptimised = {"graph_optimization_level": ort.GraphOptimizationLevel.ORT_DISABLE_ALL}
    assert _error(session(model, None, **unoptimised)) < 1e-5


@pytest.mark.parametrize("fed", [False, True], ids=["initializers", "fed"])
@pytest.mark.parametrize("used", [(), ("new_mean",), ("new_var",), ("new_mean", "new_var")], ids=str)
def test_the_conditions_under_which_it_is_wrong(used, fed):
    """Running statistics that are initializers, and not both of the updated ones used: as the README says."""
    model = fresh_batch_norm(0.5)
    statistics = {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)}
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in used)
    if fed:
        for tensor in [tensor for tensor in model.graph.initializer if tensor.name in statistics]:
            model.graph.initializer.remove(tensor)
        model.graph.input.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in statistics)

    def error(runner):
        return np.abs(runner.run(["y"], {"x": X, **(statistics if fed else {})})[0] - WANT).max()

    wrong = not fed and len(used) < 2
    assert (error(session(model, None)) > 0.1) == wrong
    assert error(session(onnx_cbp.rewrite(model), "auto")) < 1e-5


@pytest.mark.parametrize("backend", ["python", pytest.param("native", marks=pytest.mark.native)])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_the_rewritten_one_is_right(momentum, backend):
    assert _error(session(onnx_cbp.rewrite(fresh_batch_norm(momentum)), backend)) < 1e-5


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_the_portable_one_is_right_without_a_library(momentum):
    assert _error(session(onnx_cbp.rewrite(fresh_batch_norm(momentum), portable=True), None)) < 1e-5
