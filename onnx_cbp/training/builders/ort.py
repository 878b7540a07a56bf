"""Calls ONNX Runtime's own generator of artifacts, without its log lines, and with one line if it fails."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnx_cbp.errors import OnnxCbpError

_STANDARD_ERROR = 2
#: A line of ONNX Runtime's log that tells of its progress: information, or more verbose still.
_PROGRESS = re.compile(rb"^(\x1b\[[\d;]*m)?[\d-]+ [\d:.]+ \[[IV]:onnxruntime:")

#: What the builder says, and what it means.
_MEANINGS = (
    (
        r"gradient builder has not been registered: (?P<op>\w+) for node (?P<node>.*?)\s*$",
        "node '{node}' ({op}) has no gradient in ONNX Runtime's builder: put ops in its place that have one, or let "
        "requires_grad name parameters behind it alone",
    ),
    (
        r"Could not find an implementation for (?P<op>\w+?)Grad\(\d+\) node with name '(?P<node>[^'/]*(?:/.*)?)_Grad/",
        "node '{node}' ({op}) has no gradient on the processor in ONNX Runtime: put ops in its place that have one, or "
        "let requires_grad name parameters behind it alone",
    ),
    (
        r"partial derivative for '(?P<name>[^']+)' as it's unreachable",
        "requires_grad: nothing of '{name}' reaches the loss through ops that have a gradient: leave it out",
    ),
    (
        r"GetGradientDefsImpl\(\) const (?P<text>[^\n]+)",
        "ONNX Runtime's gradient builder cannot follow the model: {text}",
    ),
    (r"^.*\] : \d+ : \w+ : (?P<text>[^\n]+)", "ONNX Runtime's gradient builder cannot follow the model: {text}"),
)


def build(artifacts: Any, model: Any, **arguments: Any) -> None:
    """Call ONNX Runtime's `generate_artifacts`.

    Raises:
        OnnxCbpError: what it raises, whatever that is, as one line.
    """
    try:
        with _quiet(Path(artifacts.__file__).parent):
            artifacts.generate_artifacts(model, **arguments)
    except OnnxCbpError:
        raise
    except Exception as error:  # C++ text in a RuntimeError, or whatever its Python code trips over
        raise OnnxCbpError(_meaning(error)) from error


def _meaning(error: Exception) -> str:
    text = str(error)
    for pattern, meaning in _MEANINGS:
        found = re.search(pattern, text, re.DOTALL if "Could not" in pattern else re.MULTILINE)
        if found:
            return " ".join(meaning.format(**found.groupdict()).split())
    return f"ONNX Runtime's generate_artifacts fails with {type(error).__name__}: {' '.join(text.split())}"


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """Keep back what ONNX Runtime tells of its progress, and nothing else.

    Its Python code writes to the root logger, and its builder to standard error, at a level that no setting changes.
    """
    root, handler = logging.getLogger(), logging.NullHandler()

    def others(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not Path(record.pathname).is_relative_to(folder)

    root.addFilter(others)
    bare = not root.handlers
    if bare:  # or the first line would install a handler, for good
        root.addHandler(handler)
    try:
        with _without_progress():
            yield
    finally:
        root.removeFilter(others)
        if bare:
            root.removeHandler(handler)


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """Let standard error wait in a file, and hand on what is no line of progress."""
    try:
        kept = os.dup(_STANDARD_ERROR)
    except OSError:  # a process without one
        yield
        return
    with tempfile.TemporaryFile() as waiting:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()
        os.dup2(waiting.fileno(), _STANDARD_ERROR)
        try:
            yield
        finally:
            with contextlib.suppress(AttributeError, OSError, ValueError):
                sys.stderr.flush()
            os.dup2(kept, _STANDARD_ERROR)
            waiting.seek(0)
            others = b"".join(line for line in waiting if not _PROGRESS.match(line))
            with contextlib.suppress(OSError):
                while others:
                    others = others[os.write(kept, others) :]
            os.close(kept)
