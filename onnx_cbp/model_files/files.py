"""Writing files: whole or not at all, whatever ends the program, and as private as they were."""

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
    """A file that is to be written in the place of what has its name, if anything has.

    It is written in a scratch folder beside it first, so that one renaming puts it in place. A link stays a link, to
    the new file. What is replaced hands its mode on; a new file has that of every new file of the process.

    Attributes:
        file: the file, with links followed.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str = "file") -> None:
        """Check where the file is to be.

        Args:
            path: the file.
            kind: what to call such a file in an error.

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
        """A folder beside the file, for as long as the context lasts."""
        with tempfile.TemporaryDirectory(prefix=f".{self.file.name}.", dir=self.file.parent) as folder:
            yield Path(folder)

    def put(self, written: Path) -> None:
        """Put a file from the scratch folder in place.

        Raises:
            OSError: it cannot be put there; what was there still is.
        """
        self._finish(written)
        written.replace(self.file)
        with contextlib.suppress(OSError):  # not every file system can; the file is in place
            _synchronize(self.file.parent)

    def put_beside(self, written: Path) -> Path:
        """Put a file from the scratch folder beside it, under its name there, which must be new.

        Returns:
            Where it is.

        Raises:
            OSError: it cannot be put there.
        """
        self._finish(written)
        return written.rename(self.file.parent / written.name)

    def fresh_name(self, ending: str) -> str:
        """A name that no file has had, for one beside it."""
        return f"{self.file.name}.{secrets.token_hex(8)}{ending}"

    def _finish(self, written: Path) -> None:
        """Have a file that is written on the disk before anything names it, and give it the old one's mode."""
        _synchronize(written)
        with contextlib.suppress(FileNotFoundError):
            written.chmod(stat.S_IMODE(self.file.stat().st_mode))


def put_all(written: Sequence[Path], folder: Path, scratch: Path) -> None:
    """Put files in their places in a folder, all of them or none: where one cannot be put, those before it go back.

    Args:
        written: the files, in the order in which they are put, on the file system of the folder.
        folder: where they go, under their names.
        scratch: an empty folder for what they replace, until all are in place.

    Raises:
        OnnxCbpError: one line: a place that cannot be written. What was in the folder is there as it was.
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
    """Another name of a file, or a copy where the file system has none; None where there is no file."""
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
