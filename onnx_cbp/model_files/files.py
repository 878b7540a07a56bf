"""Writes files whole or not at all, whatever ends the program, and with the old access rights."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnx_cbp.errors import OnnxCbpError


class Replacement:
    """A file that will be written, and replaces an existing file of its name.

    It is first written in a scratch folder next to its place, and a single renaming then puts it there. A link stays a
    link, to the new file. A replaced file passes on its mode; a new file has the mode of new files of this process.

    Attributes:
        file: the file, after following links.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str = "file") -> None:
        """Check where the file will be.

        Args:
            path: the file.
            kind: the kind of file, for errors.

        Raises:
            OnnxCbpError: one line: a folder, something that is no regular file, or a folder that does not exist.
        """
        given = Path(path)
        if given.is_dir():
            raise OnnxCbpError(f"'{given}' is a folder: name the {kind} to write")
        if given.exists() and not given.is_file():
            # A file put in the place of /dev/null, say, would harm everything that writes there.
            article = "an" if kind.startswith(".o") else "a"
            raise OnnxCbpError(f"'{given}' is no regular file: name {article} {kind} to write")
        self.file = given.resolve()
        if not self.file.parent.is_dir():
            raise OnnxCbpError(f"'{self.file}' cannot be written: the folder '{self.file.parent}' does not exist")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder next to the file, which exists as long as the context."""
        with tempfile.TemporaryDirectory(prefix=f".{self.file.name}.", dir=self.file.parent) as folder:
            yield Path(folder)

    def put(self, written: Path) -> None:
        """Put a file from the scratch folder in place.

        Raises:
            OSError: it cannot be put there; what was there still is.
        """
        self._finish(written)
        written.replace(self.file)
        with contextlib.suppress(OSError):  # not every file system supports this; the file is in place already
            _synchronize(self.file.parent)

    def put_beside(self, written: Path) -> Path:
        """Move a file from the scratch folder to a place next to it, under its own name, which must be new.

        Returns:
            Its place.

        Raises:
            OSError: it cannot be put there.
        """
        self._finish(written)
        return written.rename(self.file.parent / written.name)

    def fresh_name(self, ending: str) -> str:
        """A name that no file has had, for a file next to it."""
        return f"{self.file.name}.{secrets.token_hex(8)}{ending}"

    def _finish(self, written: Path) -> None:
        """Make sure that a written file is on the disk before anything names it, and give it the old file's mode."""
        _synchronize(written)
        with contextlib.suppress(FileNotFoundError):
            written.chmod(stat.S_IMODE(self.file.stat().st_mode))


def put_all(written: Sequence[Path], folder: Path, scratch: Path) -> None:
    """Put files in their places in a folder, all or none: if one cannot be put, those before it are taken back.

    Args:
        written: the files, in the order in which they are put, on the file system of the folder.
        folder: their new folder, where they keep their names.
        scratch: an empty folder for replaced files, until all are in place.

    Raises:
        OnnxCbpError: one line: a place cannot be written. Then the folder is as it was.
    """
    places = [Replacement(folder / file.name) for file in written]
    put: list[tuple[Replacement, Path | None]] = []
    for place, file in zip(places, written, strict=True):
        try:
            put.append((place, _kept(place.file, scratch / file.name)))
            place.put(file)
        except BaseException as error:
            for before, kept in reversed(put):
                with contextlib.suppress(OSError):
                    before.file.unlink() if kept is None else shutil.move(kept, before.file)
            if not isinstance(error, OSError):
                raise
            raise OnnxCbpError(f"'{folder / file.name}' cannot be written: {error.strerror or error}") from None


def _kept(file: Path, kept: Path) -> Path | None:
    """Another name for a file, or a copy if the file system does not support that; None if there is no file."""
    if not file.exists():
        return None
    try:
        kept.hardlink_to(file)
    except OSError:
        shutil.copy2(file, kept)
    return kept


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
