"""The bits that every kind of processor computes: the same where there are fused multiply-adds, or nearly."""

from __future__ import annotations

import pytest

from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.custom_ops.library import call_native, function_name, native_target
from support.kernel_cases import assert_near, assert_same_bits, compute_type, describe, kernel_cases, usual_cases
from support.native_table import FUNCTIONS
from support.ops import make_case
from support.programs.replay import replay
from support.programs.variants import command

pytestmark = pytest.mark.native

#: Programs (see the noxfile) with the targets that have fused multiply-adds; AArch64's only one is its baseline.
FUSED = [
    ("installed", "avx2"),
    ("installed", "avx512"),
    ("sanitized", "avx2"),
    ("sanitized", "avx512"),
    ("aarch64", "baseline"),
]


@pytest.fixture(scope="module", params=OPERATORS)
def cases(request):
    return kernel_cases(OPERATORS[request.param])


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


@pytest.mark.whole
def test_same_bits_of_the_baseline_under_sanitizers(cases, baseline):
    _assert_all_same_bits(cases, replay(command("sanitized", "baseline"), cases, "baseline"), baseline)


@pytest.mark.parametrize("shift", [0, 1, 5])
@pytest.mark.parametrize("target", ["avx2", "avx512"])
def test_same_bits_past_the_caches(target, shift, cases, fused):
    if cases[0].operator.has_windows:
        pytest.skip("convolutions write nothing past the caches")
    results = replay(command("sanitized", target), cases, target, shift=shift, ONNX_CBP_LARGEST_CACHE="0")
    _assert_all_same_bits(cases, results, fused)


@pytest.mark.parametrize("name", [name for name in OPERATORS if name.startswith("BatchNorm")])
def test_same_bits_in_the_order_of_memory(name):
    # Short runs, and more groups and elements than schedule.h asks for.
    case = make_case(name, (48, 700, 7, 7))
    target = native_target()
    by_group, in_order = (
        replay(command("installed", target), [case], target, ONNX_CBP_LARGEST_CACHE=str(size)) for size in (0, 1 << 30)
    )
    _assert_all_same_bits([case], in_order, by_group)


def test_the_baseline_differs_by_rounding_alone(cases, baseline, fused):
    # Not those behind the usual ones: of data of any bits, one rounding can make infinity.
    for case, got, want in zip(usual_cases(cases[0].operator), baseline, fused, strict=False):
        for formal, a, b in zip(case.operator.outputs, got, want, strict=True):
            assert_near(a, b, compute_type(case), f"{formal.name} of {describe(case)}")


def test_every_c_function_is_covered():
    assert set(FUNCTIONS) == {*map(function_name, OPERATORS.values())}


def _assert_all_same_bits(cases, results, expected) -> None:
    for case, got, want in zip(cases, results, expected, strict=True):
        for formal, a, b in zip(case.operator.outputs, got, want, strict=True):
            assert_same_bits(a, b, f"{formal.name} of {describe(case)}")
