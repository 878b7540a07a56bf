"""Collects the library's warnings while a command runs, to print them at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warned(about: str = "") -> Iterator[list[str]]:
    """Collect warnings: only those that begin with `about`, if that is given."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(about):
                lines.append(record.getMessage())

    handler, logger = Keep(logging.WARNING), logging.getLogger("onnx_cbp")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
