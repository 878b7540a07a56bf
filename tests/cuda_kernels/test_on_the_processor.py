"""The CUDA kernels, executed by the processor under sanitizers: what they compute, and where they read and write.

That they are right on a GPU too, these tests show as far as one source and one order of additions can: not that
a GPU accepts the launches. That threads which run at the same time keep out of each other's way, test_races.py shows.
"""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.custom_ops.library import call_native, function_name
from support.gpu.cuda_host import DEVICES, HostDevice, program, run_on_host
from support.kernel_cases import (
    FEW_ROUNDINGS,
    USUAL_TYPES,
    any_bits,
    assert_near,
    assert_same_bits,
    compute_type,
    describe,
    kernel_cases,
    usual_cases,
)
from support.native_table import CUDA_FUNCTIONS
from support.ops import DTYPES, WITH_CUDA_KERNELS, exact, make_case

pytestmark = pytest.mark.native

BACKWARDS = HostDevice(backwards=True)
#: In double, how far another order of additions may take a result, in parts of the largest value of an output.
ROUNDINGS_OF_SUMS = 64
#: Shapes for the values that are hard to sum: by plane, in one pass and in two, and by tiles.
SHAPES = [
    ((8, 4, 28, 28), 1),
    ((32, 16, 7, 7), 1),
    ((64, 5, 33), 1),
    ((500, 6), 1),
    ((2, 3, 100, 101), 1),
    ((8, 28, 28, 4), -1),
    ((4, 70, 3, 3), 1),
    ((2, 1, 90_001), 1),
]


@pytest.fixture(scope="module", params=WITH_CUDA_KERNELS)
def operator(request):
    return OPERATORS[request.param]


@pytest.fixture(scope="module")
def cases(operator):
    return kernel_cases(operator)


@pytest.fixture(scope="module")
def on_h100(cases):
    return run_on_host(cases)


@pytest.mark.parametrize(
    ("name", "says"), [("check_plans", "every element has its thread"), ("check_errors", "every error is told")]
)
def test_programs_that_check_for_themselves(name, says):
    done = subprocess.run([program(name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{says}\n"), done.stdout + done.stderr


def test_every_function_is_covered():
    ops = {function_name(OPERATORS[name]).replace("onnx_cbp_", "onnx_cbp_cuda_", 1) for name in WITH_CUDA_KERNELS}
    assert ops == CUDA_FUNCTIONS


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_near_the_cpu_kernels(operator, device):
    usual = [*usual_cases(operator), make_case(operator.name, (2, 0, 4))]
    _assert_near_the_cpu_kernels(usual, run_on_host(usual, device))


@pytest.mark.parametrize("device", [BACKWARDS, HostDevice(grid=5)], ids=["threads backwards", "small grids"])
def test_same_bits_in_another_order(cases, on_h100, device):
    """No thread needs what another one writes in the same phase, no block what another one writes in the launch."""
    _assert_all_same_bits(cases, run_on_host(cases, device), on_h100)


@pytest.mark.parametrize("device", ["one multiprocessor, small grids", "without shared memory"])
def test_same_bits_on_every_device(cases, on_h100, device):
    """In one pass and in two, for more and fewer multiprocessors."""
    _assert_all_same_bits(cases, run_on_host(cases, DEVICES[device]), on_h100)


def test_unaligned_arrays(operator):
    """Without vectors the order of additions is another."""
    usual = usual_cases(operator)
    _assert_near_the_cpu_kernels(usual, run_on_host(usual, shift=1))


def _assert_near_the_cpu_kernels(cases, results) -> None:
    for case, got in zip(cases, results, strict=True):
        want = call_native(case.operator, case.inputs, case.attributes)
        # Sums of numbers with both signs are made in double either way, in another order.
        roundings = ROUNDINGS_OF_SUMS if compute_type(case) == np.float64 else FEW_ROUNDINGS
        for formal, a, b in zip(case.operator.outputs, got, want, strict=True):
            # Elements of 16 bits are made in float, whatever the statistics are.
            computed_in = np.dtype(np.float32) if a.dtype.itemsize == 2 else compute_type(case)
            assert_near(a, b, computed_in, f"{formal.name} of {describe(case)}", roundings)


def _assert_all_same_bits(cases, results, expected) -> None:
    for case, got, want in zip(cases, results, expected, strict=True):
        for formal, a, b in zip(case.operator.outputs, got, want, strict=True):
            assert_same_bits(a, b, f"{formal.name} of {describe(case)}")


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_variance_at_a_large_offset(device):
    cases = [
        make_case("ChannelStats", shape, axis=axis, X=np.random.default_rng(1).normal(size=shape) + offset)
        for shape, axis in SHAPES
        for offset in (0.0, 1e4, 1e6)
    ]
    for case, (mean, var, count) in zip(cases, run_on_host(cases, device), strict=True):
        want_mean, want_var, want_count = exact(case)
        np.testing.assert_allclose(var, want_var, rtol=1e-6, err_msg=describe(case))
        np.testing.assert_allclose(
            mean, want_mean, rtol=1e-7, atol=1e-7 * np.sqrt(want_var.max()), err_msg=describe(case)
        )
        assert count == want_count


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_variance_after_a_first_element_far_away(device):
    cases = []
    for shape, axis in SHAPES:
        X = np.random.default_rng(2).normal(size=shape)
        X[(0,) * len(shape)] = 1e5
        cases.append(make_case("ChannelStats", shape, axis=axis, X=X))
    for case, got in zip(cases, run_on_host(cases, device), strict=True):
        np.testing.assert_allclose(got[1], exact(case)[1], rtol=1e-6, err_msg=describe(case))


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_backprop_stats_are_rounded_once(device):
    cases = [
        make_case("ChannelBackpropStats", shape, axis=axis, X=np.random.default_rng(3).normal(size=shape) + offset)
        for shape, axis in SHAPES
        for offset in (0.1, 1e4)
    ]
    for case, results in zip(cases, run_on_host(cases, device), strict=True):
        wide = {name: value.astype(np.float64) for name, value in case.feeds.items()}
        axis = case.attributes["axis"] % wide["X"].ndim
        others = tuple(i for i in range(wide["X"].ndim) if i != axis)
        x_hat = (wide["X"] - np.expand_dims(wide["mean"], others)) * np.expand_dims(wide["inv_std"], others)
        terms = (wide["dY"] * x_hat, wide["dY"])
        for got, want, of in zip(results, exact(case), terms, strict=True):
            bound = 0.5 * np.spacing(np.abs(want).astype(np.float32)) + 1e-9 * np.abs(of).sum(others)
            assert (np.abs(got - want) <= bound).all(), describe(case)


@pytest.mark.parametrize("types", USUAL_TYPES, ids="-".join)
def test_constant_channels_have_no_variance(types):
    data, statistics = types
    cases = []
    for shape, axis in SHAPES:
        X = np.full(shape, 0.1) + np.expand_dims(
            np.arange(shape[axis]), tuple(i for i in range(len(shape)) if i != axis % len(shape))
        )
        cases.append(make_case("ChannelStats", shape, axis=axis, X=X, data=data, statistics=statistics))
    for case, (mean, var, _) in zip(cases, run_on_host(cases), strict=True):
        X = np.moveaxis(case.feeds["X"], case.attributes["axis"], 0).reshape(len(mean), -1)[:, 0].astype(mean.dtype)
        if data == "float64":  # the sum of a few doubles is rounded
            np.testing.assert_allclose(mean, X, rtol=1e-15, err_msg=describe(case))
            assert (var <= np.square(1e-15 * X)).all(), describe(case)
        else:
            assert (mean == X).all(), describe(case)
            assert (var == 0.0).all(), describe(case)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan], ids=str)
@pytest.mark.parametrize("name", ["BatchNormTrain", "BatchNormGrad", "ChannelBackpropStatsGrad"])
def test_what_is_not_finite_stays_in_its_channel(name, value):
    usual = [make_case(name, shape, axis=axis) for shape, axis in SHAPES if shape[axis] > 1]
    spoilt = []
    for case in usual:
        X = case.feeds["X"].copy()
        X[(1,) * X.ndim] = value
        spoilt.append(case.replace(X=X))
    for case, clean, got in zip(usual, run_on_host(usual), run_on_host(spoilt), strict=True):
        for formal, a, b in zip(case.operator.outputs, got, clean, strict=True):
            what = f"{formal.name} of {describe(case)}"
            axis = {"X": case.attributes["axis"], "C": 0}.get(formal.shape)
            if axis is None:
                assert a == b, what
                continue
            other = np.arange(b.shape[axis]) != 1
            assert_same_bits(np.compress(other, a, axis), np.compress(other, b, axis), what)
            if formal.shape == "C" and formal.name not in ("bias_grad", "d_mean"):
                assert not np.isfinite(a[1]), what


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("statistics", ["float32", "float64"])
@pytest.mark.parametrize("data", DTYPES)
def test_the_recomputed_mask_is_that_of_the_result(data, statistics, device):
    """From x, slope and offset comes the sign of every Y that was made of them, also where Y is rounded to zero."""
    forward = []
    for shape, axis in SHAPES:
        for offset, spread in ((0.0, 1.0), (1e4, 1.0), (0.0, 1e-4)):
            X = np.random.default_rng(4).normal(size=shape) * spread + offset
            case = make_case("BatchNormReluTrainUpdate", shape, axis=axis, X=X, data=data, statistics=statistics)
            # Of a channel whose scale is tiny, Y is subnormal or rounded to zero.
            scale = case.feeds["scale"].copy()
            scale[0] = {"float16": 1e-7, "float64": 1e-308}.get(data, 1e-38)
            b = case.feeds["B"].copy()
            b[0] = 0.0
            forward += (
                [case, any_bits(case.replace(scale=scale, B=b))] if spread == 1.0 else [case.replace(scale=scale, B=b)]
            )
    made = run_on_host(forward, device)
    by_result, by_recomputing, expected = [], [], []
    for case, results in zip(forward, made, strict=True):
        of = {t.name: value for t, value in zip(case.operator.outputs, results, strict=True)}
        given = {"X": case.feeds["X"], "scale": case.feeds["scale"], "mean": of["mean"], "inv_std": of["inv_std"]}
        shape, axis = case.feeds["X"].shape, case.attributes["axis"]
        like = {"axis": axis, "data": data, "statistics": statistics}
        by_result.append(make_case("BatchNormReluGrad", shape, **like).replace(**given, Y=of["Y"]))
        by_recomputing.append(
            make_case("BatchNormRecomputeReluGrad", shape, **like).replace(
                **given, slope=of["slope"], offset=of["offset"]
            )
        )
        with np.errstate(invalid="ignore"):  # not a number: not positive
            expected.append(of["Y"] > 0)
    assert any(mask.any() and not mask.all() for mask in expected)
    results = run_on_host(by_result, device)
    _assert_all_same_bits(by_recomputing, run_on_host(by_recomputing, device), results)
    # What passes is told by the sum of dY, where dY says which element it is of.
    counted = []
    for case in by_recomputing:
        ones = np.ones_like(case.feeds["dY"])
        counted.append(case.replace(dY=ones))
    for case, mask, got in zip(counted, expected, run_on_host(counted, device), strict=True):
        others = tuple(i for i in range(mask.ndim) if i != case.attributes["axis"] % mask.ndim)
        assert (got[2] == mask.sum(axis=others)).all(), describe(case)
