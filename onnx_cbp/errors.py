"""The error for bad input; errors of other libraries are turned into it here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_LONGEST = 400


class OnnxCbpError(ValueError):
    """Bad input: the message is one line that names the node or file and the value, and says what to do."""

    def __init__(self, *arguments: object) -> None:
        """Store the message; it has no line breaks, even if names in it have."""
        super().__init__(*(" ".join(each.splitlines()) if isinstance(each, str) else each for each in arguments))


@contextlib.contextmanager
def foreign(what: str) -> Iterator[None]:
    """Wrap one call of another library, whose exceptions have no common base: they become one line.

    Args:
        what: the beginning of the line: whose fault it is, as far as known.

    Raises:
        OnnxCbpError: the call failed; our own errors pass unchanged.
    """
    try:
        yield
    except OnnxCbpError:
        raise
    except Exception as error:
        raise OnnxCbpError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of an exception; if exceptions wrap one another, that of the innermost."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
