"""Fewer cases of parametrised tests: of products of parameters, and where another environment runs them in full."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator

import pytest

#: Of a test that is marked as a product, one case in so many is run, even where it is not repeated.
_OF_A_PRODUCT = 3


def one_in(n: int, items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The cases that are run, and the others: of each test one in `n`, and every value that several cases share.

    What is marked as thorough is among the others, and of what is marked as whole none is. Of what is marked as a
    product, such as that of all ops with all shapes, one in `_OF_A_PRODUCT` is enough. Values that a parameter has
    in one case alone are not all kept: that would keep all cases. The choice depends on nothing but the names of the
    cases, and mixes the parameters' values.
    """
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in (item for item in items if not item.get_closest_marker("thorough")):
        tests[item.nodeid.partition("[")[0]].append(item)
    kept = {case for cases in tests.values() for case in _of_one_test(_number(n, cases), cases)}
    return [item for item in items if item in kept], [item for item in items if item not in kept]


def _number(n: int, cases: list[pytest.Item]) -> int:
    return max(n, _OF_A_PRODUCT) if cases[0].get_closest_marker("product") else n


def _of_one_test(n: int, cases: list[pytest.Item]) -> Iterator[pytest.Item]:
    seen: dict[tuple[str, int], int] = defaultdict(int)
    for case in cases:
        for value in _values(case):
            seen[value] += 1
    left = {value for value, times in seen.items() if times > 1}
    for i, case in enumerate(sorted(cases, key=_mixed)):
        values = _values(case)
        if case.get_closest_marker("whole") or i % n == 0 or not left.isdisjoint(values):
            left -= values
            yield case


def _values(case: pytest.Item) -> set[tuple[str, int]]:
    """Each parameter with its value: decorators that stand on each other give their cases the same objects."""
    callspec = getattr(case, "callspec", None)
    return {(name, id(value)) for name, value in callspec.params.items()} if callspec else set()


def _mixed(case: pytest.Item) -> str:
    return hashlib.sha256(case.nodeid.encode()).hexdigest()
