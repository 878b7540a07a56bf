"""Kernels with their tasks on threads, and replicas that are threads, under ThreadSanitizer: nobody meets another."""

from __future__ import annotations

import re

import pytest

from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.custom_ops.library import call_native, native_target
from support.kernel_cases import assert_same_bits, describe, usual_cases
from support.ops import make_case
from support.programs.replay import replay, run_program
from support.programs.sanitizers import threads_command
from support.programs.variants import command, folder

pytestmark = pytest.mark.native

#: Of many tasks: by group of channels, by channel, in halves of a long one, and channels last.
LARGE = [((64, 96, 14, 14), 1), ((3, 5, 20_000), 1), ((2, 1, 90_001), 1), ((16, 14, 14, 96), -1), ((500, 300), 1)]

#: Of convolutions, which take a thousand times as long an element here.
LARGE_OF_CONVOLUTIONS = [((6, 20, 9, 9), 1), ((5, 3, 700), 1), ((2, 34, 4, 3, 5), 1)]


@pytest.mark.whole
@pytest.mark.parametrize("name", OPERATORS)
def test_tasks_at_the_same_time_give_the_same_bits(name):
    target = native_target()
    program = command("threads", target)
    cases = usual_cases(OPERATORS[name])
    if "X" in {formal.name for formal in OPERATORS[name].inputs}:
        large = LARGE_OF_CONVOLUTIONS if OPERATORS[name].has_windows else LARGE
        cases = [*cases, *(make_case(name, shape, axis=axis) for shape, axis in large)]
    for case, got in zip(cases, replay(program, cases, target), strict=True):
        for formal, a, b in zip(
            case.operator.outputs, got, call_native(case.operator, case.inputs, case.attributes), strict=True
        ):
            assert_same_bits(a, b, f"{formal.name} of {describe(case)}")


def test_replicas_that_are_threads():
    program = threads_command([str(folder("threads") / "check_threads")])
    assert run_program(program, b"", {}) == b"replicas agree\n"


def test_a_planted_race_is_found():
    program = threads_command([str(folder("threads") / "check_threads"), "--planted"])
    with pytest.raises(RuntimeError, match=re.escape("WARNING: ThreadSanitizer: data race")):
        run_program(program, b"", {})
