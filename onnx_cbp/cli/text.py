"""Text for people: names whole, one line where one line is promised."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_AS_WIDE_AS_IT_TAKES = 100_000


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Names come from model files: nothing in them may drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def console() -> Console:
    """Standard output. In a pipe every row stays on one line, however long."""
    width = None if sys.stdout.isatty() else _AS_WIDE_AS_IT_TAKES
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[str] = ()) -> Table:
    """A table; on a narrow terminal cells are folded, never cut short."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        result.add_column(name, overflow="fold", justify="right" if name in right else "left")
    for row in rows:
        # Text, because a str is read as markup: a shape like [N,3] would vanish.
        result.add_row(*(Text(printable(c)) if isinstance(c, str) else c for c in row))
    return result


def number(value: float) -> str:
    """A magnitude in three digits; "-" for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.2e}" if value else "0"


def say(out: Console, line: str) -> None:
    """One line of plain text, which only a terminal may wrap."""
    out.print(Text(printable(line)))
