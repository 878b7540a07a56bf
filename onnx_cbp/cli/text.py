"""Text for people: never wider than the terminal, and one line where one line is promised."""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: The width for a pipe, which has no width of its own.
_IN_A_PIPE = 100
#: The columns between two columns of a table, and around all of them.
_BETWEEN, _AROUND = 3, 2
#: The least width of a column whose texts are cut.
_NARROWEST = 12
#: Parts of a text that users copy, and which are never broken: an option with its value, a quoted name.
_COPIED = re.compile(r"--[\w-]+ '[^']*'|'[^']*'")


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Names come from model files: they must not be able to control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def console() -> Console:
    """Standard output: as wide as the terminal, or 100 columns."""
    width = None if sys.stdout.isatty() else _IN_A_PIPE
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    right: Sequence[str] = (),
    *,
    cut: tuple[str, int] | None = None,
    whole: Sequence[str] = (),
) -> Table:
    """A table; texts wider than their column are folded.

    Args:
        columns: the headings.
        rows: one text for each cell.
        right: headings of columns with numbers.
        cut: the heading of a column of names, which are cut in the middle until the table fits this many columns.
        whole: headings of columns that are not folded.
    """
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    cells = [[Text(printable(c)) if isinstance(c, str) else c for c in row] for row in rows]
    if cut is not None:
        _cut(columns, cells, *cut)
    for name in columns:
        result.add_column(name, overflow="fold", justify="right" if name in right else "left", no_wrap=name in whole)
    for row in cells:
        # As Text, because a str would be read as markup, in which a shape like [N,3] vanishes.
        result.add_row(*row)
    return result


def _cut(columns: Sequence[str], cells: list[list[Text]], name: str, width: int) -> None:
    """Cut the texts of a column until the table fits the width."""
    widths = [max([len(head), *(len(row[i].plain) for row in cells)]) for i, head in enumerate(columns)]
    at = columns.index(name)
    room = width - _AROUND - _BETWEEN * (len(columns) - 1) - (sum(widths) - widths[at])
    for row in cells:
        row[at].plain = shortened(row[at].plain, max(room, _NARROWEST))


def shortened(name: str, width: int) -> str:
    """A name with at most this many characters: its longest part between slashes is cut in the middle first."""
    if len(name) <= width:
        return name
    parts = name.split("/")
    longest = max(range(len(parts)), key=lambda i: len(parts[i]))
    room = len(parts[longest]) - (len(name) - width)
    if room >= 3:
        parts[longest] = _middle_cut(parts[longest], room)
        return "/".join(parts)
    return _middle_cut(name, width)


def _middle_cut(text: str, width: int) -> str:
    kept = width - 1
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def wrapped(out: Console, text: str, indent: str = "") -> None:
    """Print a sentence in lines that fit the terminal; parts to be copied stay whole."""
    # Spaces inside such parts are replaced until the lines are made, so that no line breaks there.
    unbroken = _COPIED.sub(lambda found: found[0].replace(" ", "\0"), printable(text))
    lines = textwrap.TextWrapper(
        out.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ).wrap(unbroken)
    for line in lines:
        out.print(Text(line.replace("\0", " ")), soft_wrap=True)


def number(value: float) -> str:
    """A magnitude in three digits; "-" for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.2e}" if value else "0"


def say(out: Console, line: str) -> None:
    """One line of plain text, which only a terminal may wrap."""
    out.print(Text(printable(line)), soft_wrap=True)
