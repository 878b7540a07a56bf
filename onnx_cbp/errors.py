"""The error that bad input raises, and the place where errors of other libraries become it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_LONGEST = 400


class OnnxCbpError(ValueError):
    """Bad input: the message is one line that names the node or file and the value, and says what to do."""

    def __init__(self, *arguments: object) -> None:
        """The message; names in it may have line breaks, which it has not."""
        super().__init__(*(" ".join(each.splitlines()) if isinstance(each, str) else each for each in arguments))


@contextlib.contextmanager
def foreign(what: str) -> Iterator[None]:
    """Around one call of another library, whose exceptions have no base of their own: they become one line.

    Args:
        what: what the line begins with: whose fault it is, as far as it is known.

    Raises:
        OnnxCbpError: the call failed; errors of ours pass as they are.
    """
    try:
        yield
    except OnnxCbpError:
        raise
    except Exception as error:
        raise OnnxCbpError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an exception says, or the one at the bottom of those that wrap one another."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
