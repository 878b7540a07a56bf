"""Reference, function body, Python ops and native ops give the same results on the same cases."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp.custom_ops import OPERATORS
from support.ops import WITH_BODIES, WITH_PYTHON_OPS, exact, make_case, run, run_reference, skip_where_types_are_refused

SHAPES = [
    ((4, 3), 1),
    ((2, 3, 7), 1),
    ((2, 5, 4, 3), 1),
    ((3, 4, 2, 3, 2), 1),
    ((1, 2, 3, 1, 2, 5), 1),
    ((3, 1, 6), 1),  # one channel
    ((1, 5, 1), 1),  # one element a channel
    ((2, 3, 4, 5), -1),
    ((5, 2, 4), 0),
    ((6, 3, 5, 2), 2),
    ((3, 17, 9, 11), 1),
    ((33, 130), 1),
    ((0, 3, 4), 1),  # no samples
    ((2, 3, 4, 0), 1),  # no space
]
NATIVE = pytest.param("native", marks=pytest.mark.native)
#: Every way there is to run each op.
WAYS = [
    pytest.param(backend, name, marks=[pytest.mark.native] if backend == "native" else [])
    for backend in ("reference", "bodies", "python", "native")
    for name in {"bodies": WITH_BODIES, "python": WITH_PYTHON_OPS}.get(backend, OPERATORS)
]

#: Largest difference to float64, relative to the largest value of the output.
TOLERANCE = {
    ("native", "float32"): 1e-6,
    ("python", "float32"): 1e-6,
    ("bodies", "float32"): 1e-5,
    ("reference", "float32"): 1e-6,
    ("native", "float64"): 1e-13,
    ("python", "float64"): 1e-13,
    ("bodies", "float64"): 1e-13,
    ("reference", "float64"): 1e-13,
    ("native", "float16"): 1e-3,
    ("native", "bfloat16"): 8e-3,
}


def _assert_agrees(case, results, tolerance):
    for formal, got, want in zip(case.operator.outputs, results, exact(case), strict=True):
        assert got.shape == want.shape, formal.name
        assert np.isfinite(got).all(), formal.name
        bound = tolerance * max(np.abs(want).max(initial=0.0), 1e-3)
        np.testing.assert_allclose(got, want, rtol=0, atol=bound, err_msg=formal.name)


@pytest.mark.product
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize(("backend", "name"), WAYS)
def test_float(backend, name, shape, axis):
    case = make_case(name, shape, axis=axis)
    results = run_reference(case) if backend == "reference" else run(case, backend)
    _assert_agrees(case, results, TOLERANCE[backend, "float32"])


@pytest.mark.parametrize(("backend", "name"), WAYS)
def test_double(backend, name):
    case = make_case(name, (3, 5, 4, 7), data="float64", statistics="float64")
    results = run_reference(case) if backend == "reference" else run(case, backend)
    _assert_agrees(case, results, TOLERANCE[backend, "float64"])


@pytest.mark.product
@pytest.mark.native
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("statistics", ["float32", "float64"])
@pytest.mark.parametrize("data", ["float16", "bfloat16", "float32", "float64"])
def test_native_types(data, statistics, name):
    skip_where_types_are_refused(name, data, statistics)
    for shape, axis in SHAPES:
        case = make_case(name, shape, axis=axis, data=data, statistics=statistics)
        results = run(case, "native")
        by_name = {formal.name: result for formal, result in zip(case.operator.outputs, results, strict=True)}
        for formal, got, want in zip(case.operator.outputs, results, exact(case), strict=True):
            # Each result is rounded once, to its own type.
            # BatchNormReluTrainUpdate makes Y from the coefficients that it keeps in the type of the statistics.
            own = data if formal.type == "T" and name != "BatchNormReluTrainUpdate" else statistics
            tolerance = max(TOLERANCE["native", own], TOLERANCE["native", data] if formal.type == "T" else 0.0)
            bound = tolerance * max(np.abs(want).max(initial=0.0), 1e-3)
            if formal.name == "offset":  # it holds what rounding took from the mean
                bound += np.abs(by_name["slope"] * np.spacing(by_name["mean"])).max(initial=0.0)
            message = f"{formal.name} of {shape}, axis {axis}"
            np.testing.assert_allclose(got, want, rtol=0, atol=bound, err_msg=message)


@pytest.mark.product
@pytest.mark.parametrize("opset", [13, 14, 15, 16, 18, 20])
@pytest.mark.parametrize("name", WITH_BODIES)
def test_function_bodies_serve_every_opset(name, opset):
    case = make_case(name, (3, 5, 4, 7))
    _assert_agrees(case, run(case, "bodies", opset=opset), TOLERANCE["bodies", "float32"])


@pytest.mark.parametrize(("data", "statistics"), [("float16", "float32"), ("float32", "float64")])
def test_function_bodies_serve_mixed_types(data, statistics):
    """Not double data with float statistics, of which bodies lose digits, as `rewrite` says."""
    case = make_case("ChannelNormalize", (3, 5, 4, 7), data=data, statistics=statistics)
    _assert_agrees(case, run(case, "bodies"), 2e-3 if data == "float16" else 1e-6)


@pytest.mark.parametrize("unbiased", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 2, 10])
@pytest.mark.parametrize("backend", ["reference", "bodies", "python", NATIVE])
def test_running_stats(backend, count, unbiased):
    case = make_case("RunningStats", (3, 5), unbiased=unbiased, momentum=0.7)
    case = case.replace(count=np.array(count, np.int64))
    running, batch = case.feeds["running"].astype(float), case.feeds["batch"].astype(float)
    factor = count / (count - 1) if unbiased and count > 1 else 1.0
    kept = float(np.float32(0.7))
    want = running if count == 0 else running * kept + batch * factor * (1 - kept)
    (got,) = run_reference(case) if backend == "reference" else run(case, backend)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "bodies", "python", NATIVE])
def test_an_empty_batch_gives_zeros(backend):
    for shape in ((0, 3, 4), (2, 3, 0, 5)):
        for name in ("ChannelStats", "ChannelBackpropStats"):
            case = make_case(name, shape)
            for got in run_reference(case) if backend == "reference" else run(case, backend):
                assert not got.any()


@pytest.mark.product
@pytest.mark.native
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shape", [(2, 3, 40), (4, 3), (3, 3, 9, 9)])
def test_nan_and_inf_spread_as_in_the_reference(name, poison, shape):
    data = np.random.default_rng(0).normal(size=shape)
    data[1, 1] = poison
    case = make_case(name, shape)
    if "X" in case.feeds:
        case = case.replace(X=data.astype(np.float32).reshape(case.feeds["X"].shape))
    for got, want in zip(run(case, "native"), exact(case), strict=True):
        # An infinite sum may come out as NaN where the reference's order of terms says Inf, never as a number.
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
