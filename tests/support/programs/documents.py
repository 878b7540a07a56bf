"""Code blocks of the documentation, and what comments above them say of how they run.

A block is fenced: python, shell (bash, line by line), json, text. Comments directly above it, which no reader sees:

    <!-- given: x = 1 -->                  code of the block's language that runs before it
    <!-- needs: training, mpi -->          what an environment must have (markers of tests)
    <!-- not run: installs packages -->    it cannot run here, and why
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(\w*)\s*$")
_COMMENT = re.compile(r"<!--\s*(given|needs|not run):(.*?)-->", re.DOTALL)
#: How code begins that is only indented, so that no test would run it.
_CODE = re.compile(
    r"^ {4,}(\$ |pip |make |mpiexec |python |onnx-cbp |[A-Z_]+=\S+ \w|import \w|from \w+ import|with \w|onnx_cbp\.\w)"
)


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        document, line: where it stands.
        language: that of its fence; "" where it names none.
        code: its lines.
        given, needs, not_run: what the comments above it say; "" and () where they say nothing.
    """

    document: str
    line: int
    language: str
    code: str
    given: str
    needs: tuple[str, ...]
    not_run: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if start is None:
            start = number
            continue
        language = _FENCE.match(lines[start - 1])
        assert language is not None
        said = _said_above(lines[: start - 1])
        needs = tuple(name.strip() for name in said.get("needs", "").split(",") if name.strip())
        code = "\n".join(lines[start : number - 1]) + "\n"
        document = path.relative_to(ROOT).as_posix()
        yield Block(document, start, language[1], code, said.get("given", ""), needs, said.get("not run", ""))
        start = None
    assert start is None, f"{path}:{start}: the block does not end"


def _said_above(lines: list[str]) -> dict[str, str]:
    """What the comments say that end a text."""
    text = "\n".join(lines).rstrip()
    said: dict[str, str] = {}
    while text.endswith("-->"):
        begin = text.rindex("<!--")
        comment = _COMMENT.fullmatch(text[begin:])
        if comment is None:
            break
        said[comment[1]] = comment[2].strip()
        text = text[:begin].rstrip()
    return said


def unfenced_code(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are code by how they begin, and stand in no fence: number and text."""
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside and _CODE.match(line):
            yield number, line


def inline_code(path: Path) -> Iterator[tuple[int, str]]:
    """What stands between single backquotes: number of the line and text."""
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            for found in re.finditer(r"`([^`]+)`", line):
                yield number, found[1]
