"""Rewritten models and the passes in the hands of others: onnx's evaluator, onnx-ir's pass manager."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import PassManager
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass, TopologicalSortPass

from onnx_cbp import rewrite
from onnx_cbp.custom_ops.references import OP_RUNS
from onnx_cbp.graph_passes import AttachFunctionsPass, ReplaceBackwardPass, ReplaceForwardPass
from support.models import FORWARD, TRAINING, op_types, parse
from support.ops import session, skip_where_types_are_refused


def _feeds():
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(2.0, 3.0, (4, 3, 5, 6)), **{n: rng.uniform(0.5, 2, 3) for n in ("gamma", "beta")}}
    feeds |= {n: rng.uniform(0.5, 2, 3) for n in ("mean", "var")}
    return {name: value.astype(np.float32) for name, value in feeds.items()}


def test_onnx_reference_evaluator_runs_rewritten_models():
    model = parse(FORWARD)
    results = ReferenceEvaluator(rewrite(model), new_ops=OP_RUNS).run(None, _feeds())
    for got, want in zip(results, session(model, None).run(None, _feeds()), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_passes_stand_in_a_pass_manager_of_others():
    model = ir.from_proto(parse(TRAINING))
    passes = [
        ReplaceForwardPass(),
        ReplaceBackwardPass(),
        TopologicalSortPass(),
        AttachFunctionsPass(),
        CheckerPass(),
    ]
    result = PassManager(passes, steps=2, early_stop=True)(model)
    assert result.modified
    assert not PassManager(passes)(result.model).modified, "a second run finds nothing to do"
    proto = ir.to_proto(result.model)
    assert {"ChannelStats", "ChannelBackprop"} <= set(op_types(proto))


def test_each_pass_tells_truly_whether_it_changed_anything():
    inference = parse(FORWARD.replace("training_mode: int = 1", "training_mode: int = 0"))
    for text, passes in ((FORWARD, [True, False]), (TRAINING, [True, True])):
        model = ir.from_proto(parse(text))
        assert [p(model).modified for p in (ReplaceForwardPass(), ReplaceBackwardPass())] == passes
    model = ir.from_proto(inference)
    for step in (ReplaceForwardPass(), ReplaceBackwardPass(), AttachFunctionsPass()):
        assert not step(model).modified


def test_cleaning_up_afterwards_keeps_what_is_written_in_place():
    # A node whose only effect is what it writes looks unused: clean up before the rewrite, never after it.
    model = ir.from_proto(rewrite(parse(TRAINING)))
    RemoveUnusedNodesPass()(model)
    kept = op_types(ir.to_proto(model)).count("InPlaceAccumulatorV2")
    assert kept == 0, "if onnx-ir learns to keep such nodes, the warning in the README can go"
    onnx.checker.check_model(ir.to_proto(model))


@pytest.mark.parametrize(
    "kinds", [("float16", "float"), ("float", "double"), ("double", "float"), ("float16", "float16")]
)
def test_mixed_types(kinds):
    data, parameters = kinds
    names = {"float": "float32", "double": "float64", "float16": "float16"}
    statistics = "float64" if parameters == "double" else "float32"
    skip_where_types_are_refused("ChannelStats", names[data], statistics)
    text = FORWARD.replace("float[N, 3, H, W]", f"{data}[N, 3, H, W]").replace("float[3]", f"{parameters}[3]")
    model = parse(text)
    rewritten = rewrite(model)
    onnx.checker.check_model(rewritten, full_check=True)
    if data == "float16" and not _native():
        pytest.skip("Python ops serve float and double; this installation has no native library")
    dtypes = {"float": np.float32, "double": np.float64, "float16": np.float16}
    feeds = _feeds()
    feeds = {n: v.astype(dtypes[data] if n == "x" else dtypes[parameters]) for n, v in feeds.items()}
    y, new_mean, new_var = session(rewritten, "native" if _native() else "auto").run(None, feeds)
    wide = {n: v.astype(np.float64) for n, v in feeds.items()}
    column = (slice(None), None, None)
    mean, var = wide["x"].mean((0, 2, 3)), wide["x"].var((0, 2, 3))
    want = wide["gamma"][column] * (wide["x"] - mean[column]) / np.sqrt(var + 1e-3)[column] + wide["beta"][column]
    assert y.dtype == dtypes[data]
    assert new_mean.dtype == new_var.dtype == dtypes[parameters]
    tolerance = 2e-3 if "float16" in kinds else 1e-5
    np.testing.assert_allclose(y, want, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(new_var, wide["var"] * 0.8 + var * 0.2, rtol=tolerance)
    np.testing.assert_allclose(new_mean, wide["mean"] * 0.8 + mean * 0.2, rtol=tolerance)


def _native():
    from onnx_cbp.custom_ops.library import find_library

    return find_library() is not None
