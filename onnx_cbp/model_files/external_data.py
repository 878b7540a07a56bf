"""External data: the tensors of a model that are stored in files next to it.

These files must be in the folder of the model. A path that leads out of it is an error before a byte is read: a model
from elsewhere must not make private files a part of what is made from it.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path, PureWindowsPath

import onnx

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.model_files.model_tensors import all_tensors


class _RefusalError(Exception):
    """Why external data are not read: what is wrong with the file, and what to do."""


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the data of a tensor are in a file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def refuse_external_data(model: onnx.ModelProto) -> None:
    """Raise for a tensor with its data in a file, since a model in memory has no folder in which to look for it.

    Raises:
        OnnxCbpError: one line that names the tensor.
    """
    for tensor in all_tensors(model):
        if is_external(tensor):
            raise OnnxCbpError(
                f"tensor '{tensor.name}' has its data in a file, '{_shown(tensor)}', and a model in memory has no "
                "folder to find it in: give the path of the model, or load it with onnx.load(path), which loads its "
                "external data too (onnx.save with save_as_external_data takes them out of the model it is given)"
            )


def check_external_data(model: onnx.ModelProto, file: Path) -> None:
    """Raise if a tensor's file is not a file in the folder of the model, or is too short.

    Raises:
        OnnxCbpError: one line that names the tensor and its file, and says what to do.
    """
    _each(model, file, load=False)


def load_external_data(model: onnx.ModelProto, file: Path) -> None:
    """Check as `check_external_data` does, and put the data into the model.

    Raises:
        OnnxCbpError: one line that names the tensor and its file, and says what to do.
    """
    _each(model, file, load=True)


def locations(model: onnx.ModelProto) -> set[str]:
    """The files with the data of the model's tensors, as the model names them."""
    return {
        entry.value
        for t in all_tensors(model)
        if is_external(t)
        for entry in t.external_data
        if entry.key == "location"
    }


def _each(model: onnx.ModelProto, file: Path, *, load: bool) -> None:
    for tensor in all_tensors(model):
        if not is_external(tensor):
            continue
        try:
            _take(tensor, file.parent, load=load)
        except _RefusalError as refused:
            reason = str(refused)
        except (OSError, MemoryError) as error:
            reason = f"cannot be read: {getattr(error, 'strerror', None) or 'memory is short'}"
        else:
            continue
        raise OnnxCbpError(
            f"'{file}': its external data cannot be read: tensor '{tensor.name}' has its data in '{_shown(tensor)}', "
            f"which {' '.join(reason.split())}"
        )


def _shown(tensor: onnx.TensorProto) -> str:
    """The tensor's file, as far as it can be shown in one line."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    if isinstance(location, bytes):  # protobuf returns bytes if the text is not UTF-8
        return ascii(location)[2:-1]
    return location if location.isprintable() else ascii(location)[1:-1]


def _take(tensor: onnx.TensorProto, folder: Path, *, load: bool) -> None:
    """Check where one tensor's data are, and load them into it if `load` is set."""
    entries = _entries(tensor)
    descriptor = _open(folder, entries.get("location", ""))
    with os.fdopen(descriptor, "rb") as data:
        _check_file(os.fstat(descriptor))
        start, length = _range(tensor, entries, os.fstat(descriptor).st_size)
        if not load:
            return
        data.seek(start)
        content = data.read(length)
    if len(content) < length:
        raise _RefusalError("has become shorter while it was read")
    tensor.raw_data = content
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT  # as onnx.load leaves it


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if isinstance(entry.key, bytes) or isinstance(entry.value, bytes):
            raise _RefusalError("is no text in UTF-8: name the file anew")
        if entry.key in entries:
            raise _RefusalError(f"is stated twice ('{entry.key}'): state it once")
        entries[entry.key] = entry.value
    return entries


def _open(folder: Path, location: str) -> int:
    """Open a file in a folder, without following a link or waiting for anything."""
    inside = "keep external data in the folder of the model"
    if not location or "\0" in location:
        raise _RefusalError(f"is no name of a file: {inside}")
    path = Path(location)
    if path.is_absolute() or PureWindowsPath(location).drive:
        raise _RefusalError(f"is an absolute path: {inside}, and name it by its path from there")
    if ".." in (*path.parts, *PureWindowsPath(location).parts):
        raise _RefusalError(f"leads out of the folder of the model: {inside}")
    try:
        straight, real = folder.resolve() / path, (folder / path).resolve(strict=True)
        if real != straight:
            raise _RefusalError("is a link, or behind one: put the file itself in the folder of the model")
        _check_file(real.stat())  # before opening it, which can have effects on a device
        return os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise _RefusalError(f"does not exist: {inside}") from None
    except RuntimeError:  # circular links, until Python 3.13
        raise _RefusalError("is a link, or behind one: put the file itself in the folder of the model") from None


def _check_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _RefusalError("is no regular file: put the data in one")
    if status.st_nlink > 1:
        raise _RefusalError(
            "has another name elsewhere (a hard link), so that it may be anybody's file: make a copy of it"
        )


def _range(tensor: onnx.TensorProto, entries: dict[str, str], size: int) -> tuple[int, int]:
    """Where the data begin in a file of this size, and how long they are, in bytes."""
    start, stated = _number(entries, "offset"), _number(entries, "length")
    needed = _bytes(tensor)
    length = needed if stated is None else stated
    if length != needed:
        dims = ", ".join(map(str, tensor.dims))
        raise _RefusalError(
            f"has {length} bytes for it, where its shape [{dims}] and type need {needed}: write it anew"
        )
    start = start or 0
    if start + length > size:
        raise _RefusalError(
            f"has {size} bytes, where it should have {start + length}: it is cut short, or another model's"
        )
    return start, length


def _number(entries: dict[str, str], key: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _RefusalError(f"has the {key} '{text[:20]}', which is no number of bytes: write the model anew")
    return int(text)


def _bytes(tensor: onnx.TensorProto) -> int:
    import onnx_ir as ir  # it takes a quarter of a second to import

    try:
        dtype = ir.DataType(tensor.data_type)
        if dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
            raise ValueError
        width = dtype.itemsize
    except (ValueError, TypeError, KeyError):
        raise _RefusalError(f"cannot have data of type {tensor.data_type}: only numbers can stand in a file") from None
    if any(size < 0 for size in tensor.dims):
        raise _RefusalError(f"cannot have data of the shape {list(tensor.dims)}: no size is negative")
    return math.ceil(math.prod(tensor.dims) * width)
