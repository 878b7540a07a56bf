"""Reads tables of a FlatBuffers file and checks every offset, since the file may be damaged."""

from __future__ import annotations

import struct
from collections.abc import Iterator


class MalformedError(ValueError):
    """The file does not follow its format; the message says where."""


class Table:
    """A table in a buffer; its fields are numbered as the schema lists them.

    Args:
        buffer: the whole file.
        position: where the table begins.
    """

    def __init__(self, buffer: memoryview, position: int) -> None:
        self._buffer = buffer
        self._position = position
        self._fields = position - _read(buffer, "<i", position)
        self._size = _read(buffer, "<H", self._fields)

    @classmethod
    def root(cls, buffer: memoryview) -> Table:
        """The table that the file begins with."""
        return cls(buffer, _read(buffer, "<I", 0))

    def scalar(self, field: int, form: str, default: int | float) -> int | float:
        """A number; `form` is its `struct` format. The default where the writer left it out."""
        at = self._field(field)
        return default if at is None else _read(self._buffer, form, at)

    def text(self, field: int) -> str:
        """A string; "" where it is left out."""
        at = self._field(field)
        if at is None:
            return ""
        start, length = self._vector(at)
        try:
            return str(_piece(self._buffer, start, length), "utf-8")
        except UnicodeDecodeError:
            raise MalformedError(f"no text at byte {start}") from None

    def table(self, field: int) -> Table | None:
        """A table inside this one; None where it is left out."""
        at = self._field(field)
        return None if at is None else Table(self._buffer, at + _read(self._buffer, "<I", at))

    def tables(self, field: int) -> Iterator[Table]:
        """The tables of a vector of tables; none where it is left out."""
        at = self._field(field)
        if at is None:
            return
        start, length = self._vector(at)
        _piece(self._buffer, start, 4 * length)
        for place in range(start, start + 4 * length, 4):
            yield Table(self._buffer, place + _read(self._buffer, "<I", place))

    def numbers(self, field: int) -> tuple[int, ...]:
        """A vector of 64-bit integers; none where it is left out."""
        at = self._field(field)
        if at is None:
            return ()
        start, length = self._vector(at)
        return struct.unpack(f"<{length}q", _piece(self._buffer, start, 8 * length))

    def data(self, field: int) -> memoryview | None:
        """A vector of bytes; None where it is left out."""
        at = self._field(field)
        return None if at is None else _piece(self._buffer, *self._vector(at))

    def _field(self, field: int) -> int | None:
        """Where a field is; None where the writer left it out."""
        entry = 4 + 2 * field
        if entry >= self._size:
            return None
        offset = _read(self._buffer, "<H", self._fields + entry)
        return self._position + offset if offset else None

    def _vector(self, at: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many there are."""
        start = at + _read(self._buffer, "<I", at)
        return start + 4, _read(self._buffer, "<I", start)


def _read(buffer: memoryview, form: str, at: int) -> int:
    (value,) = struct.unpack(form, _piece(buffer, at, struct.calcsize(form)))
    return value


def _piece(buffer: memoryview, start: int, length: int) -> memoryview:
    if start < 0 or start + length > len(buffer):
        raise MalformedError(f"it refers to byte {start + length}, and has {len(buffer)}")
    return buffer[start : start + length]
