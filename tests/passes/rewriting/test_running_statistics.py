"""Running variances by PyTorch's convention, and by ONNX's."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.models import FORWARD, TRAINING, op_types, parse, without_running_statistics
from support.ops import session

NATIVE = pytest.param("native", marks=pytest.mark.native)
MOMENTUM = 0.8


def _running_var(shape, steps, unbiased):
    """The data of each step and the running variance behind them, in float64."""
    rng = np.random.default_rng(5)
    running = np.ones(3)
    batches = []
    for _ in range(steps):
        x = rng.normal(1.0, 2.0, shape).astype(np.float32)
        batches.append(x)
        batch = x.astype(np.float64).var(axis=(0, 2, 3), ddof=int(unbiased))
        running = running * np.float32(MOMENTUM) + batch * (1 - np.float64(np.float32(MOMENTUM)))
    return batches, running


def _trained(model, batches, backend):
    run = session(model, backend)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    ones = np.ones(3, np.float32)
    for x in batches:
        _, mean, var = run.run(None, {"x": x, "gamma": ones, "beta": ones, "mean": mean, "var": var})
    return var


def test_a_declared_shape_that_is_not_so_does_not_bend_a_statistic():
    model = parse(FORWARD)
    for output in model.graph.output[1:]:
        output.type.tensor_type.shape.dim.add().dim_value = 1
    for switches in SWITCHES:
        assert "Reshape" not in op_types(onnx_cbp.rewrite(model, **{**switches, "portable": False})), switches


SWITCHES = [{}, {"one_pass": False}, {"portable": True}, {"one_pass": False, "synchronize": True}]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("backend", ["python", NATIVE])
@pytest.mark.parametrize("unbiased", [False, True])
def test_ten_steps_follow_the_convention(switches, backend, unbiased):
    rewritten = onnx_cbp.rewrite(parse(FORWARD), unbiased_running_var=unbiased, **switches)
    onnx.checker.check_model(rewritten)
    batches, want = _running_var((2, 3, 1, 3), 10, unbiased)  # of 6 elements a channel: the factor is 1.2
    got = _trained(rewritten, batches, None if switches.get("portable") else backend)
    np.testing.assert_allclose(got, want, rtol=2e-6)


@pytest.mark.training
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_they_are_written_in_place_by_the_convention(switches):
    """As training artifacts have them; a portable model runs by its function bodies."""
    run = session(onnx_cbp.rewrite(parse(TRAINING), unbiased_running_var=True, **switches), _backend(switches))
    batches, want = _running_var((2, 3, 1, 3), 10, unbiased=True)
    ones = np.ones(3, np.float32)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    for x in batches:
        run.run(
            None,
            {"x": x, "gamma": ones, "beta": ones, "running_mean": mean, "running_var": var, "y_grad": np.ones_like(x)},
        )
    np.testing.assert_allclose(var, want, rtol=2e-6)


def _backend(switches):
    return None if switches.get("portable") else "auto"


@pytest.mark.parametrize("backend", ["python", NATIVE])
def test_one_element_a_channel_has_the_biased_variance(backend):
    """PyTorch refuses such a batch; an unbiased variance of it is 0 / 0."""
    x = np.random.default_rng(0).normal(size=(1, 3, 1, 1)).astype(np.float32)
    got = _trained(onnx_cbp.rewrite(parse(FORWARD), unbiased_running_var=True), [x], backend)
    np.testing.assert_allclose(got, np.full(3, MOMENTUM), rtol=1e-6)


@pytest.mark.parametrize("one_pass", [True, False])
def test_only_the_variance_is_unbiased(one_pass):
    rewritten = onnx_cbp.rewrite(parse(FORWARD), unbiased_running_var=True, one_pass=one_pass)
    x = np.random.default_rng(1).normal(3.0, 1.0, (1, 3, 1, 2)).astype(np.float32)
    ones = np.ones(3, np.float32)
    feeds = {"x": x, "gamma": ones, "beta": ones, "mean": ones, "var": ones}
    y, mean, _ = session(rewritten, "auto").run(None, feeds)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, MOMENTUM + (1 - MOMENTUM) * wide.mean(axis=(0, 2, 3)), rtol=1e-6)
    std = np.sqrt(wide.var(axis=(0, 2, 3), keepdims=True) + 1e-3)
    np.testing.assert_allclose(y, 1 + (wide - wide.mean(axis=(0, 2, 3), keepdims=True)) / std, atol=1e-5)


def test_the_relu_that_is_folded_keeps_the_convention():
    model = parse("""
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, L] x, float[3] gamma, float[3] beta, float[3] running_mean, float[3] running_var,
        float[N, 3, L] r_grad) => (float[N, 3, L] r, float[N, 3, L] x_grad)
{
    y, m, v, saved_mean, saved_inv_std = com.microsoft.BatchNormInternal (x, gamma, beta, running_mean, running_var)
    r = Relu (y)
    y_grad = com.microsoft.ReluGrad (r_grad, r)
    x_grad, gamma_grad, beta_grad = com.microsoft.BatchNormalizationGrad (y_grad, x, gamma, saved_mean, saved_inv_std)
}
""")
    rewritten = onnx_cbp.rewrite(model, unbiased_running_var=True)
    (node,) = (n for n in rewritten.graph.node if n.op_type == "BatchNormReluTrainUpdate")
    assert next(a.i for a in node.attribute if a.name == "unbiased") == 1


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("text", [FORWARD, TRAINING])
def test_a_rewritten_model_is_not_silently_left_with_the_other_convention(text, switches, caplog):
    biased = onnx_cbp.rewrite(parse(text), **switches)
    again = {name: value for name, value in switches.items() if name != "portable"}
    with pytest.raises(onnx_cbp.OnnxCbpError, match="rewritten with the biased one: start from the original"):
        onnx_cbp.rewrite(biased, unbiased_running_var=True, **again)
    unbiased = onnx_cbp.rewrite(parse(text), unbiased_running_var=True, **switches)
    assert onnx_cbp.rewrite(unbiased, unbiased_running_var=True, **again) == unbiased
    with caplog.at_level(logging.INFO, "onnx_cbp"):
        assert onnx_cbp.rewrite(unbiased, **again) == unbiased
    assert "rewritten already, with an unbiased running variance" in caplog.text


def test_nothing_is_said_of_a_batch_norm_without_running_statistics():
    model = parse(FORWARD.replace(", float[3] new_mean, float[3] new_var)", ")"))
    rewritten = onnx_cbp.rewrite(without_running_statistics(model))
    assert "BatchNormTrain" in op_types(rewritten)
    assert onnx_cbp.rewrite(rewritten, unbiased_running_var=True) == rewritten


def test_statistics_of_the_batch_itself_are_no_running_ones():
    """PyTorch's exporter writes a layer without track_running_stats so."""
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, H, W] x, float[3] gamma, float[3] beta) => (float[N, 3, H, W] y)
{
    mean = ReduceMean <axes: ints = [0, 2, 3], keepdims: int = 0> (x)
    var = Mul (mean, mean)
    y, new_mean, new_var = BatchNormalization <training_mode: int = 1> (x, gamma, beta, mean, var)
}
""")
    assert "BatchNormTrain" in op_types(onnx_cbp.rewrite(model))
