"""dX against central finite differences in float64; they decide where the founding text's formulas slip."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp.custom_ops import OPERATORS
from support.ops import Case, exact, make_case, run

EPSILON = 1e-3


def _op(compute, name, *inputs, **attributes):
    case = Case(OPERATORS[name], tuple(np.asarray(v) for v in inputs), attributes)
    return compute(case)


def _reference(case):
    return case.operator.evaluate(*case.inputs, **case.attributes)


def _native(case):
    return run(case, "native")


def _forward(compute, X, scale, B, axis):
    mean, var, count = _op(compute, "ChannelStats", X, axis=axis, stash_type=11)
    (Y,) = _op(compute, "ChannelNormalize", X, scale, B, mean, var, axis=axis, epsilon=EPSILON)
    return Y, mean, var, count


def _backward(compute, dY, X, scale, mean, var, count, axis):
    inv_std = 1.0 / np.sqrt(var + EPSILON)
    sums = _op(compute, "ChannelBackpropStats", X, mean, inv_std, dY, axis=axis)
    inputs = (dY, X, scale, mean, inv_std, *sums, np.asarray(count))
    (dX,) = _op(compute, "ChannelBackprop", *inputs, axis=axis)
    return dX, *sums


def _differences(loss, array, step=1e-5):
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        upper, lower = array.copy(), array.copy()
        upper[index] += step
        lower[index] -= step
        gradient[index] = (loss(upper) - loss(lower)) / (2 * step)
    return gradient


@pytest.mark.parametrize(
    "compute", [_reference, pytest.param(_native, marks=pytest.mark.native)], ids=["ref", "native"]
)
@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((3, 2, 4), 1), ((2, 3, 2, 3), -1)])
def test_gradients_are_those_of_finite_differences(compute, shape, axis):
    rng = np.random.default_rng(7)
    channels = shape[axis]
    X = rng.normal(1.0, 2.0, shape)
    weights = rng.normal(size=shape)  # the loss is a weighted sum of Y: not flat in the mean or the variance
    scale, B = rng.normal(1.0, 0.5, channels), rng.normal(size=channels)

    def loss(X=X, scale=scale, B=B):
        Y = _forward(_reference, X, scale, B, axis)[0]
        return float((weights * Y + 0.1 * Y**3).sum())

    Y, mean, var, count = _forward(compute, X, scale, B, axis)
    dY = weights + 0.3 * Y**2
    dX, scale_grad, bias_grad = _backward(compute, dY, X, scale, mean, var, count, axis)
    close = {"rtol": 1e-7, "atol": 1e-7}
    np.testing.assert_allclose(dX, _differences(lambda v: loss(X=v), X), **close)
    np.testing.assert_allclose(scale_grad, _differences(lambda v: loss(scale=v), scale), **close)
    np.testing.assert_allclose(bias_grad, _differences(lambda v: loss(B=v), B), **close)


def test_the_founding_texts_variance_gradient_is_not_the_true_one():
    # It sums dY * gamma * x_hat where the chain rule wants dY * gamma * (x - mu), over sigma^3: one sigma too few.
    rng = np.random.default_rng(8)
    X, dY = rng.normal(1.0, 2.0, (6, 1)), rng.normal(size=(6, 1))
    mean, var = X.mean(), X.var()
    sigma = np.sqrt(var + EPSILON)
    of_the_text = -0.5 * (dY * (X - mean) / sigma).sum() / sigma**3
    true = -0.5 * (dY * (X - mean)).sum() / sigma**3

    def loss_of_var(v):
        return float((dY * (X - mean) / np.sqrt(v + EPSILON)).sum())

    measured = (loss_of_var(var + 1e-6) - loss_of_var(var - 1e-6)) / 2e-6
    assert abs(true - measured) < 1e-8
    assert abs(of_the_text - measured) > 1e-3


@pytest.mark.parametrize(
    "compute", [_reference, pytest.param(_native, marks=pytest.mark.native)], ids=["ref", "native"]
)
@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((3, 2, 4), 1), ((2, 3, 2, 3), -1)])
def test_channel_backprop_stats_grad_is_that_of_finite_differences(compute, shape, axis):
    rng = np.random.default_rng(9)
    channels = shape[axis]
    inputs = {
        "X": rng.normal(1.0, 2.0, shape),
        "mean": rng.normal(1.0, 0.5, channels),  # free variables: not the statistics of X
        "inv_std": rng.uniform(0.5, 1.5, channels),
        "dY": rng.normal(size=shape),
    }
    d_scale_grad, d_bias_grad = rng.normal(size=channels), rng.normal(size=channels)

    def loss(**changes):
        scale_grad, bias_grad = _op(_reference, "ChannelBackpropStats", *{**inputs, **changes}.values(), axis=axis)
        return float((d_scale_grad * scale_grad + d_bias_grad * bias_grad).sum())

    results = _op(compute, "ChannelBackpropStatsGrad", *inputs.values(), d_scale_grad, d_bias_grad, axis=axis)
    for (name, value), gradient in zip(inputs.items(), results, strict=True):
        want = _differences(lambda v, name=name: loss(**{name: v}), value)
        np.testing.assert_allclose(gradient, want, rtol=1e-7, atol=1e-7, err_msg=name)


@pytest.mark.native
@pytest.mark.parametrize("data", ["float32", "float64", "float16", "bfloat16"])
def test_one_op_gives_what_two_give(data):
    shape = (6, 5, 9, 7)
    statistics = "float64" if data == "float64" else "float32"
    train = make_case("BatchNormTrain", shape, data=data, statistics=statistics)
    _, mean, var, count = run(train, "native")
    stats = make_case("ChannelStats", shape, data=data, statistics=statistics)
    for one, two in zip((mean, var, count), run(stats, "native"), strict=True):
        np.testing.assert_array_equal(one, two)
    grad = make_case("BatchNormGrad", shape, data=data, statistics=statistics)
    _, *sums = run(grad, "native")
    backprop_stats = make_case("ChannelBackpropStats", shape, data=data, statistics=statistics)
    backprop_stats = backprop_stats.replace(**{n: grad.feeds[n] for n in ("X", "mean", "inv_std", "dY")})
    for one, two in zip(sums, run(backprop_stats, "native"), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.native
def test_batch_norm_train_keeps_the_digits_of_y_at_a_large_offset():
    X = (np.random.default_rng(4).normal(size=(8, 3, 20, 20)) + 1e4).astype(np.float32)
    case = make_case("BatchNormTrain", X.shape, X=X)
    want = exact(case)[0]
    assert np.abs(run(case, "native")[0] - want).max() < 2e-6
    # A mean that is rounded to float between the two ops costs hundreds of times that.
    stats = run(make_case("ChannelStats", X.shape, X=X), "native")
    normalize = make_case("ChannelNormalize", X.shape, X=X).replace(
        scale=case.feeds["scale"], B=case.feeds["B"], mean=stats[0], var=stats[1]
    )
    assert np.abs(run(normalize, "native")[0] - want).max() > 1e-4
