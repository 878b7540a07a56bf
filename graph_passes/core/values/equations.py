"""Reads the equation of an Einsum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters


@dataclass(frozen=True)
class Equation:
    """An equation with a letter for each axis, also for those that an ellipsis stands for.

    Attributes:
        terms: the letters of each operand.
        result: the letters of the result.
    """

    terms: tuple[str, ...]
    result: str

    @classmethod
    def of(cls, text: str, ranks: Sequence[int]) -> Equation | None:
        """Read an equation for operands of these ranks; None if it does not fit them, or letters run out.

        Without an arrow the result has the letters that occur once, in their order, after those of the ellipsis.
        """
        left, arrow, result = text.replace(" ", "").partition("->")
        terms = left.split(",")
        if len(terms) != len(ranks):
            return None
        more = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
        dots = unused(text)[: max(more)]
        if len(dots) < max(more) or any(n < 0 or (n and "..." not in t) for t, n in zip(terms, more, strict=True)):
            return None
        if not arrow:
            single = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
            result = "".join(["..." if "..." in left else "", *single])
        # The axes of an ellipsis are aligned at the last one.
        spelled = (t.replace("...", dots[len(dots) - n :]) for t, n in zip(terms, more, strict=True))
        return cls(tuple(spelled), result.replace("...", dots))

    def __str__(self) -> str:
        """As the attribute of a node."""
        return f"{','.join(self.terms)}->{self.result}"


def unused(text: str) -> str:
    """The letters that a text does not have."""
    return "".join(letter for letter in ascii_letters if letter not in text)
