"""Calls ONNX Runtime's own builder of artifacts, without its log lines; errors become one line."""

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
#: A line in ONNX Runtime's log about its progress: of level INFO, or more verbose.
_PROGRESS = re.compile(rb"^(\x1b\[[\d;]*m)?[\d-]+ [\d:.]+ \[[IV]:onnxruntime:")

#: Messages of the builder, and what they mean.
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
        OnnxCbpError: any error of that function, as one line.
    """
    try:
        with _quiet(Path(artifacts.__file__).parent):
            artifacts.generate_artifacts(model, **arguments)
    except OnnxCbpError:
        raise
    except Exception as error:  # C++ text in a RuntimeError, or any error of its Python code
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
    """Suppress ONNX Runtime's lines about its progress, and nothing else.

    Its Python code writes to the root logger, and its builder to standard error, at a level that no setting changes.
    """
    root, handler = logging.getLogger(), logging.NullHandler()

    def others(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not Path(record.pathname).is_relative_to(folder)

    root.addFilter(others)
    bare = not root.handlers
    if bare:  # otherwise the first line would install a handler permanently
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
    """Redirect standard error to a file, and pass on everything except lines of progress."""
    try:
        kept = os.dup(_STANDARD_ERROR)
    except OSError:  # the process has no standard error
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
