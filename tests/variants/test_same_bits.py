"""The bits that every kind of processor computes: the same where there are fused multiply-adds, or nearly."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnx_cbp.custom_ops import OPERATORS, Operator
from onnx_cbp.custom_ops.library import call_native, function_name, native_target
from support.ops import Case, make_case
from support.replay import replay
from support.variants import command

C_API = Path(__file__).parents[2] / "custom_ops" / "native" / "c_api.h"

pytestmark = pytest.mark.native

#: Programs (see the noxfile) with the targets that have fused multiply-adds; AArch64's only one is its baseline.
FUSED = [
    ("installed", "avx2"),
    ("installed", "avx512"),
    ("sanitized", "avx2"),
    ("sanitized", "avx512"),
    ("aarch64", "baseline"),
]
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


@pytest.fixture(scope="module", params=OPERATORS)
def cases(request):
    return _cases(OPERATORS[request.param])


@pytest.fixture(scope="module")
def fused(cases):
    """What the installed library computes with fused multiply-adds."""
    if native_target() == "baseline":
        pytest.skip("the installed library runs its baseline here, which has no fused multiply-add")
    return [call_native(case.operator, case.inputs, case.attributes) for case in cases]


@pytest.fixture(scope="module")
def baseline(cases):
    """What the installed library computes on a processor without."""
    return replay(command("installed", "baseline"), cases, "baseline")


@pytest.mark.parametrize(("program", "target"), FUSED)
def test_same_bits_with_fused_multiply_adds(program, target, cases, fused):
    _assert_all_same_bits(cases, replay(command(program, target), cases, target), fused)


def test_same_bits_of_the_baseline_under_sanitizers(cases, baseline):
    _assert_all_same_bits(cases, replay(command("sanitized", "baseline"), cases, "baseline"), baseline)


def test_the_baseline_differs_by_rounding_alone(cases, baseline, fused):
    # Not those of any bits, which come last: there, one rounding can make infinity of a number.
    for case, got, want in zip(_usual_cases(cases[0].operator), baseline, fused, strict=False):
        for formal, a, b in zip(case.operator.outputs, got, want, strict=True):
            _assert_near(a, b, _compute_type(case), f"{formal.name} of {_describe(case)}")


def test_every_c_function_is_covered():
    declared = set(re.findall(r"^ONNX_CBP_EXPORT const char\* (\w+)\(", C_API.read_text(), re.MULTILINE))
    assert declared == {"onnx_cbp_version", "onnx_cbp_target", *map(function_name, OPERATORS.values())}


def _usual_cases(operator: Operator) -> list[Case]:
    shapes = [*itertools.product(SMALL, TYPES), *itertools.product(LARGE, USUAL_TYPES)]
    switched_on = {a.name: 1 for a in operator.attributes if a.name in ("relu", "unbiased")}
    return [
        make_case(operator.name, shape, axis=axis, data=data, statistics=statistics, **attributes)
        for (shape, axis), (data, statistics) in shapes
        for attributes in (({}, switched_on) if switched_on else ({},))
    ]


def _cases(operator: Operator) -> list[Case]:
    cases = _usual_cases(operator)
    if operator.has_data:
        some = (((3, 5, 1009), 1), ((97, 3, 5), 1))
        cases += [
            _any_bits(make_case(operator.name, shape, axis=axis, data=data))
            for (shape, axis), (data, _) in itertools.product(some, USUAL_TYPES)
        ]
    return cases


def _any_bits(case: Case) -> Case:
    """The case with data of any bits: every exponent, subnormals, infinities and not-a-numbers."""
    rng = np.random.default_rng(1)
    data = {t.name: case.feeds[t.name] for t in case.operator.inputs if t.shape == "X"}
    return case.replace(
        **{name: np.frombuffer(rng.bytes(x.nbytes), x.dtype).reshape(x.shape) for name, x in data.items()}
    )


def _assert_all_same_bits(cases, results, expected) -> None:
    for case, got, want in zip(cases, results, expected, strict=True):
        for formal, a, b in zip(case.operator.outputs, got, want, strict=True):
            _assert_same_bits(a, b, f"{formal.name} of {_describe(case)}")


def _assert_same_bits(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """Which of the many not-a-numbers comes out, IEEE arithmetic leaves to the processor."""
    number = ~(np.isnan(got) & np.isnan(want))
    bits = [value[number].view(f"u{value.dtype.itemsize}") for value in (got, want)]
    different = int((bits[0] != bits[1]).sum())
    assert different == 0, f"{different} of {want.size} elements differ in {what}"


def _compute_type(case: Case) -> np.dtype:
    """What most is computed in: double where anything is double."""
    return np.dtype(np.float64 if any(x.dtype == np.float64 for x in case.inputs) else np.float32)


def _assert_near(got: np.ndarray, want: np.ndarray, computed_in: np.dtype, what: str) -> None:
    """Within one rounding to the output's own type, and a few to the type that is computed in."""
    if got.dtype == np.int64:
        assert np.array_equal(got, want), what
        return
    own = ml_dtypes.finfo(got.dtype)
    a, b = got.astype(np.float64), want.astype(np.float64)
    inner = FEW_ROUNDINGS * float(np.finfo(computed_in).eps) * np.abs(b).max(initial=0.0)
    bound = np.maximum(np.abs(b) * float(own.eps), float(own.smallest_subnormal)) + inner
    ratio = (np.abs(a - b) / bound).max(initial=0.0)
    assert ratio <= 1.0, f"{what} differs by {ratio:.3} times of what rounding may do"


def _describe(case: Case) -> str:
    inputs = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in case.feeds.items())
    return f"{case.operator}({inputs}; {case.attributes})"
