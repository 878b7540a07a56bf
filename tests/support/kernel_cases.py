"""Inputs for kernels in every shape, type and kind of value, and how far two builds of a kernel may differ."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np

from onnx_cbp.custom_ops import Operator
from support.ops import Case, make_case

#: How far rounding of intermediate values may take a result, in parts of the largest value of an output.
FEW_ROUNDINGS = 4

SMALL = [
    ((3, 5, 1), 1),
    ((2, 3, 7), 1),
    ((3, 17, 9, 11), 1),  # planes of 99: sums by plane, with a tail
    ((3, 4, 63), 1),
    ((2, 3, 64), 1),
    ((2, 3, 79), 1),  # one element less than whole vectors, here in planes and there in rows
    ((5, 39), 1),
    ((2, 3, 17, 19), 1),
    ((5, 3, 545), 1),  # four planes at once, and one; each in two runs, with a tail
    ((33, 130), 1),
    ((3, 5, 7, 37), -1),
    ((40, 1, 6), 1),  # one channel: one long plane
    ((2, 1030), 1),  # more channels than a block has
    ((0, 3, 4), 1),
    ((2, 3, 0), 1),
]
#: Of several blocks, in each of the ways that a tensor is cut.
LARGE = [((1, 2, 131_101), 1), ((21, 70, 101), 1), ((3301, 41), -1)]
TYPES = list(itertools.product(["float32", "float64", "float16", "bfloat16"], ["float32", "float64"]))
USUAL_TYPES = [("float32", "float32"), ("float64", "float64"), ("float16", "float32"), ("bfloat16", "float32")]


def usual_cases(operator: Operator) -> list[Case]:
    """Small shapes in all types, large ones in the usual types, with switches off and on."""
    formals = {formal.type for formal in (*operator.inputs, *operator.outputs)}
    types = [
        (data, statistics)
        for data, statistics in TYPES
        if ("T" in formals or data == "float32") and ("U" in formals or statistics == "float32")
    ]
    small = SMALL
    if operator.has_windows:
        small = [(shape, axis) for shape, axis in SMALL if shape[axis] < 1000]  # weights are of the square of that
    shapes = [*itertools.product(small, types), *itertools.product(LARGE, USUAL_TYPES)]
    switched_on = {a.name: 1 for a in operator.attributes if a.name in ("relu", "unbiased")}
    return [
        make_case(operator.name, shape, axis=axis, data=data, statistics=statistics, **attributes)
        for (shape, axis), (data, statistics) in shapes
        for attributes in (({}, switched_on) if switched_on else ({},))
    ]


def kernel_cases(operator: Operator) -> list[Case]:
    """The usual cases, then one whose last block has less than a vector of a plane, and some with data of any bits."""
    cases = [*usual_cases(operator), make_case(operator.name, (1, 2, 131_077))]
    if operator.has_data:
        some = (((3, 5, 1009), 1), ((97, 3, 5), 1))
        cases += [
            any_bits(make_case(operator.name, shape, axis=axis, data=data))
            for (shape, axis), (data, _) in itertools.product(some, USUAL_TYPES)
        ]
    return cases


def any_bits(case: Case) -> Case:
    """The case with data of any bits: every exponent, subnormals, infinities and not-a-numbers."""
    rng = np.random.default_rng(1)
    data = {t.name: case.feeds[t.name] for t in case.operator.inputs if t.shape == "X"}
    return case.replace(
        **{name: np.frombuffer(rng.bytes(x.nbytes), x.dtype).reshape(x.shape) for name, x in data.items()}
    )


def assert_same_bits(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """Which of the many not-a-numbers comes out, IEEE arithmetic leaves to the processor."""
    number = ~(np.isnan(got) & np.isnan(want))
    bits = [value[number].view(f"u{value.dtype.itemsize}") for value in (got, want)]
    different = int((bits[0] != bits[1]).sum())
    assert different == 0, f"{different} of {want.size} elements differ in {what}"


def compute_type(case: Case) -> np.dtype:
    """What most is computed in: double where anything is double."""
    return np.dtype(np.float64 if any(x.dtype == np.float64 for x in case.inputs) else np.float32)


def assert_near(
    got: np.ndarray, want: np.ndarray, computed_in: np.dtype, what: str, roundings: int = FEW_ROUNDINGS
) -> None:
    """Within one rounding to the output's own type, and a few to the type that is computed in."""
    if got.dtype == np.int64:
        assert np.array_equal(got, want), what
        return
    own = ml_dtypes.finfo(got.dtype)
    a, b = got.astype(np.float64), want.astype(np.float64)
    inner = roundings * float(np.finfo(computed_in).eps) * np.abs(b).max(initial=0.0)
    bound = np.maximum(np.abs(b) * float(own.eps), float(own.smallest_subnormal)) + inner
    ratio = (np.abs(a - b) / bound).max(initial=0.0)
    assert ratio <= 1.0, f"{what} differs by {ratio:.3} times of what rounding may do"


def describe(case: Case) -> str:
    """The case in one line."""
    inputs = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in case.feeds.items())
    return f"{case.operator}({inputs}; {case.attributes})"
