"""Every CUDA kernel against float64: types, layouts, sizes around those of vectors and blocks, alignments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from support.gpu.cuda import OPS, Prepared, TorchDevice
from support.ops import exact, make_case

#: Largest difference to float64, relative to the largest value of the output, as for the processor's kernels.
TOLERANCE = {"float32": 1e-6, "float64": 1e-13, "float16": 1e-3, "bfloat16": 8e-3}

#: Every one in a run under compute-sanitizer, which takes hundreds of times as long.
SHORT = [((3, 5, 7, 9), 1), ((33, 130), 1), ((4, 6, 6, 20), -1), ((2, 3, 0), 1)]
SHAPES = [
    *SHORT,
    ((2, 3, 4), 1),
    ((1, 1, 1), 1),
    ((3, 5, 1), 1),
    ((3, 17, 9, 11), 1),  # planes of 99: no multiple of a vector, each begins elsewhere
    ((7, 12, 7, 7), 1),
    ((6, 4, 16, 16), 1),
    ((2, 3, 64, 65), 1),
    ((5, 39), 1),
    ((40, 1, 6), 1),  # one channel: one long plane
    ((2, 1030), 1),
    ((3, 5, 7, 37), -1),
    ((2, 9, 9, 256), -1),
    ((2, 4, 5, 3, 6), 2),
    ((0, 3, 4), 1),
    ((2, 0, 4), 1),
]
#: Of several blocks a channel.
LARGE = [((1, 2, 70_001), 1), ((21, 70, 101), 1), ((3301, 41), -1)]
TYPES = list(itertools.product(TOLERANCE, ["float32", "float64"]))


def _assert_exact(case, results, data, statistics):
    by_name = {formal.name: result for formal, result in zip(case.operator.outputs, results, strict=True)}
    for formal, got, want in zip(case.operator.outputs, results, exact(case), strict=True):
        got, want = got.astype(np.float64), np.asarray(want, np.float64)
        own = data if formal.type == "T" and case.operator.name != "BatchNormReluTrainUpdate" else statistics
        tolerance = max(TOLERANCE[own], TOLERANCE[data] if formal.type == "T" else 0.0)
        bound = tolerance * max(np.abs(want).max(initial=0.0), 1e-3)
        if formal.name == "offset":  # it holds what rounding took from the mean
            bound += np.abs(by_name["slope"] * np.spacing(by_name["mean"])).max(initial=0.0)
        np.testing.assert_allclose(got, want, rtol=0, atol=bound, err_msg=f"{formal.name} of {case.operator.name}")


def _check(kernels, device, name, shape, axis, data="float32", statistics="float32", **more):
    offset = more.pop("offset", 0)
    case = make_case(name, shape, axis=axis, data=data, statistics=statistics, **more)
    _assert_exact(case, kernels.run(case, device, offset=offset), data, statistics)


@pytest.mark.parametrize(("shape", "axis"), SHORT, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_short(kernels, device, name, shape, axis):
    _check(kernels, device, name, shape, axis)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("data", "statistics"), TYPES)
def test_types_and_shapes(kernels, device, name, data, statistics):
    for shape, axis in SHAPES:
        _check(kernels, device, name, shape, axis, data, statistics)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(("shape", "axis"), LARGE, ids=str)
@pytest.mark.parametrize("data", ["float32", "bfloat16"])
def test_many_blocks(kernels, device, name, shape, axis, data):
    _check(kernels, device, name, shape, axis, data)


@pytest.mark.parametrize("name", OPS)
def test_more_shared_memory_than_a_kernel_has_without_asking(kernels, device, name):
    """In one pass, with more than 48 KB of each block, where the GPU has that twice."""
    if not isinstance(device, TorchDevice) or device.name != "cuda":
        pytest.skip("the limit is a GPU's")
    _check(kernels, device, name, (64, 160, 14, 14), 1)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("data", ["float32", "float16"])
@pytest.mark.parametrize("offset", [1, 3, 5])
def test_arrays_that_begin_anywhere(kernels, device, name, data, offset):
    for shape, axis in (((4, 6, 8, 8), 1), ((5, 40), 1), ((3, 5, 7, 9), 1)):
        _check(kernels, device, name, shape, axis, data, offset=offset)


@pytest.mark.parametrize("name", ["BatchNormTrainUpdate", "BatchNormReluTrainUpdate", "RunningStats"])
@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 1)], ids=str)
def test_attributes(kernels, device, name, shape):
    for unbiased, momentum in ((0, 0.9), (1, 0.7)):
        _check(kernels, device, name, shape, 1, unbiased=unbiased, momentum=momentum)
    if name == "BatchNormTrainUpdate":
        _check(kernels, device, name, shape, 1, relu=1, epsilon=1e-2)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", [(8, 4, 28, 28), (2, 3, 100, 101), (500, 6)], ids=str)
def test_variance_at_a_large_offset(kernels, device, shape, axis):
    X = (np.random.default_rng(1).normal(size=shape) + 1e6).astype(np.float32)
    case = make_case("ChannelStats", shape, axis=axis, X=X)
    _, var, _ = kernels.run(case, device)
    np.testing.assert_allclose(var, exact(case)[1], rtol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", OPS)
def test_nan_and_inf_spread_as_in_the_reference(kernels, device, name, poison):
    for shape in ((2, 3, 40), (4, 3), (3, 3, 9, 9)):
        data = np.random.default_rng(0).normal(size=shape)
        data[1, 1] = poison
        case = make_case(name, shape)
        if "X" in case.feeds:
            case = case.replace(X=data.astype(np.float32).reshape(case.feeds["X"].shape))
        for got, want in zip(kernels.run(case, device), exact(case), strict=True):
            np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@pytest.mark.parametrize("name", OPS)
def test_the_same_bits_each_time(kernels, device, name):
    for shape, axis in (((21, 70, 101), 1), ((3301, 41), -1)):
        call = Prepared(kernels, make_case(name, shape, axis=axis), device)
        first = [value.tobytes() for value in call.run()]
        for _ in range(3):
            assert [value.tobytes() for value in call.run()] == first


def test_a_type_that_is_none(kernels, device):
    import ctypes

    sizes = [ctypes.c_int64(size) for size in (2, 3, 4)]
    pointers = [ctypes.c_void_p(0)] * 4
    with pytest.raises(RuntimeError, match="type") as caught:
        kernels.call("onnx_cbp_channel_stats", device.stream, 0, 7, 1, *sizes, *pointers)
    assert "\n" not in str(caught.value)


def test_a_size_that_is_negative(kernels, device):
    import ctypes

    sizes = [ctypes.c_int64(size) for size in (2, -3, 4)]
    pointers = [ctypes.c_void_p(0)] * 4
    with pytest.raises(RuntimeError, match="negative"):
        kernels.call("onnx_cbp_channel_stats", device.stream, 0, 1, 1, *sizes, *pointers)
