"""Cases that an environment leaves out: never a whole test, nor a value that no other case of the test has."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from support.sampling import one_in

COLOURS, SIZES, SHAPES = ("red", "green", "blue"), (10, 20, 30, 40), ("disc", "ring")


class _Case:
    def __init__(self, test, marks=(), **parameters):
        values = "-".join(map(str, parameters.values()))
        self.nodeid = f"tests/x.py::{test}[{values}]" if parameters else f"tests/x.py::{test}"
        self.callspec = SimpleNamespace(params=parameters)
        self._marks = marks

    def get_closest_marker(self, name):
        return name in self._marks


def _product(test, *marks):
    return [_Case(test, marks, c=c, s=s, h=h) for c, s, h in itertools.product(COLOURS, SIZES, SHAPES)]


@pytest.mark.parametrize("n", [1, 2, 4, 100])
def test_one_in_n_of_the_cases_and_every_value(n):
    cases = [_Case("alone"), *_product("many")]
    kept, others = one_in(n, cases)
    assert sorted(map(cases.index, kept + others)) == list(range(25))
    assert [case for case in cases if case in kept] == kept, "in their order"
    assert kept[0] is cases[0]
    for name, values in (("c", COLOURS), ("s", SIZES), ("h", SHAPES)):
        assert {case.callspec.params[name] for case in kept[1:]} == set(values)
    assert 24 // n <= len(kept) - 1 <= 24 // n + 9
    assert one_in(n, cases)[0] == kept, "the same each time"


def test_values_of_one_case_alone_are_not_all_kept():
    cases = [_Case("single", value=object()) for _ in range(12)]
    for number, case in enumerate(cases):
        case.nodeid += str(number)
    assert len(one_in(4, cases)[0]) == 3


def test_marks():
    assert one_in(100, _product("whole", "whole"))[1] == []
    assert one_in(1, _product("thorough", "thorough"))[0] == []
    assert 8 <= len(one_in(1, _product("product", "product"))[0]) <= 8 + 9
