"""The mask of a ReLU, computed once more, is the one that was: not one sign may differ."""

from __future__ import annotations

import numpy as np
import pytest

from support.ops import make_case, run, skip_where_types_are_refused

pytestmark = pytest.mark.native

#: Planes and rows, whole vectors and what is left behind them.
SHAPES = [((64, 16, 28, 28), 1), ((8, 33, 7, 7), 1), ((5, 3, 3, 5), 1), ((9, 130, 61), 1), ((40, 9, 9, 24), -1)]


@pytest.mark.parametrize("backend", ["native", "python"])
@pytest.mark.parametrize("data", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_the_gradient_passes_where_the_result_is_positive(shape, axis, offset, data, backend):
    statistics = "float64" if data == "float64" else "float32"
    skip_where_types_are_refused("BatchNormReluTrainUpdate", data, statistics)
    if backend == "python" and data in ("float16", "bfloat16"):
        pytest.skip("the Python backend has no 16-bit types")
    # Values on a grid: many lie at the mean, where the sign hangs on the last bit.
    far = min(offset, 16.0) if data == "bfloat16" else offset  # where the type still has the grid's digits
    X = np.random.default_rng(7).integers(-3, 4, shape) / 4 + far
    forward = make_case("BatchNormReluTrainUpdate", shape, axis=axis, data=data, statistics=statistics, X=X)
    forward = forward.replace(B=np.zeros_like(forward.feeds["B"]))
    Y, mean, inv_std, _, _, slope, shift = run(forward, backend)
    common = {"scale": forward.feeds["scale"], "mean": mean, "inv_std": inv_std}
    kinds = {"axis": axis, "data": data, "statistics": statistics, "X": X}
    recomputing = make_case("BatchNormRecomputeReluGrad", shape, **kinds)
    recomputing = recomputing.replace(**common, slope=slope, offset=shift)
    reading = make_case("BatchNormReluGrad", shape, **kinds)
    reading = reading.replace(**common, Y=Y.astype(reading.feeds["Y"].dtype))
    assert 0.1 < (Y > 0).mean() < 0.9
    for one, two in zip(run(recomputing, backend), run(reading, backend), strict=True):
        np.testing.assert_array_equal(one, two)
