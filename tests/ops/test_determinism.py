"""The same bits from run to run, for every number of threads and through every door to the kernels."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.custom_ops.library import call_native
from support.gpu import cuda_adapter
from support.ops import feeds_of, make_case, op_model, run, session

pytestmark = pytest.mark.native

SHAPES = [
    ((16, 8, 56, 56), 1),
    ((64, 3, 1000), 1),
    ((3, 64, 7, 7), 1),
    ((2, 1, 300, 301), 1),
    ((20000, 5), 1),
    ((16, 30, 30, 24), -1),
]


@pytest.mark.product
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_bit_identical_for_every_number_of_threads(name, shape, axis):
    case = make_case(name, shape, axis=axis)
    _assert_same_bits(case)


@pytest.mark.product
@pytest.mark.parametrize("data", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", OPERATORS)
def test_bit_identical_for_every_type(name, data):
    statistics = "float64" if data == "float64" else "float32"
    for shape, axis in (((5, 12, 60, 61), 1), ((3000, 40), -1)):
        _assert_same_bits(make_case(name, shape, axis=axis, data=data, statistics=statistics))


@pytest.mark.skipif(cuda_adapter.folder() is not None, reason="what is tested is an order of the processor's kernels")
@pytest.mark.parametrize("name", [name for name in OPERATORS if name.startswith("BatchNorm")])
def test_bit_identical_in_the_order_of_memory(name):
    # Short runs, and more groups and elements than schedule.h asks for.
    _assert_same_bits(make_case(name, (48, 700, 7, 7)))


def _assert_same_bits(case):
    want = run(case, "native", threads=1)
    if cuda_adapter.folder() is None:  # its kernels are others than those of the plain C functions
        through_c = call_native(case.operator, case.inputs, case.attributes)
        for got, expected in zip(through_c, want, strict=True):
            np.testing.assert_array_equal(got.astype(expected.dtype), expected)
    for threads in (2, 3, 4):
        runner = session(op_model(case), "native", threads=threads)
        for _ in range(3):
            for got, expected in zip(runner.run(None, feeds_of(case)), want, strict=True):
                np.testing.assert_array_equal(got, expected)
