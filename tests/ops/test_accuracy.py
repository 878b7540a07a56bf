"""Accuracy against float64 where naive kernels fail."""

from __future__ import annotations

import numpy as np
import pytest

from support.ops import exact, make_case, run

pytestmark = pytest.mark.native

SHAPES = [(8, 4, 28, 28), (32, 16, 7, 7), (64, 5, 33), (500, 6), (2, 3, 100, 101)]


@pytest.mark.parametrize("backend", ["native", "python"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_variance_at_a_large_offset(backend, shape, axis):
    X = (np.random.default_rng(1).normal(size=shape) + 1e6).astype(np.float32)
    case = make_case("ChannelStats", shape, axis=axis, X=X)
    mean, var, count = run(case, backend)
    want_mean, want_var, want_count = exact(case)
    np.testing.assert_allclose(var, want_var, rtol=1e-6)
    np.testing.assert_allclose(mean, want_mean, rtol=1e-7)
    assert count == want_count


@pytest.mark.parametrize("backend", ["native", "python"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_variance_after_a_first_element_far_away(backend, shape, axis):
    X = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    X[(0,) * len(shape)] = 1e5
    case = make_case("ChannelStats", shape, axis=axis, X=X)
    np.testing.assert_allclose(run(case, backend)[1], exact(case)[1], rtol=1e-6)


@pytest.mark.parametrize("backend", ["native", "python"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("offset", [0.1, 1e4])
def test_backprop_stats_are_rounded_once(backend, shape, axis, offset):
    rng = np.random.default_rng(3)
    X = (rng.normal(size=shape) + offset).astype(np.float32)
    case = make_case("ChannelBackpropStats", shape, axis=axis, X=X)
    wide = {name: value.astype(np.float64) for name, value in case.feeds.items()}
    others = tuple(i for i in range(X.ndim) if i != axis % X.ndim)
    column = [1] * X.ndim
    column[axis] = shape[axis]
    x_hat = (wide["X"] - wide["mean"].reshape(column)) * wide["inv_std"].reshape(column)
    terms = (wide["dY"] * x_hat, wide["dY"])
    for got, want, of in zip(run(case, backend), exact(case), terms, strict=True):
        bound = 0.5 * np.spacing(np.abs(want).astype(np.float32)) + 1e-9 * np.abs(of).sum(others)
        assert (np.abs(got - want) <= bound).all()
