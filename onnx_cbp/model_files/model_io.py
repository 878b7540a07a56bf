"""Reads and writes model files: one clear line for what cannot be read, and never half a file."""

from __future__ import annotations

import contextlib
import gc
import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError, EncodeError, Message

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.model_files.external_data import check_external_data, load_external_data, locations
from onnx_cbp.model_files.files import Replacement
from onnx_cbp.model_files.model_tensors import Large, is_large, without_large

#: The largest size of one protobuf message.
_LARGEST_MESSAGE = 2**31 - 1
#: ONNX wants the data of each tensor to begin at a multiple of a page, so that runtimes can map them into memory.
_ALIGNMENT = 4096
#: If a model's large tensors have at least this many bytes, it is written tensor by tensor.
_MUCH = 2**26
#: The fields of a usual tensor that has its data in one field.
_USUAL = ("dims", "data_type", "name", "doc_string", "raw_data", "metadata_props")
#: Larger files are searched for the names of data files only if they begin as a model does, with its IR version.
_SEARCHED = 2**26
_MODEL_BEGINS = b"\x08"
#: A model with more elements should be in memory as few times as possible.
_MANY = 2**26


def load_model(path: str | os.PathLike[str], *, external_data: bool = True) -> onnx.ModelProto:
    """Read a model, with its external data unless they are not wanted; they are checked in any case.

    Raises:
        OnnxCbpError: one line: no such file, a folder, no ONNX model, external data that are not there, that do not fit
            their tensor, or that are not regular files in the folder of the model.
    """
    file = Path(path)
    if file.is_dir():
        raise OnnxCbpError(f"'{file}' is a folder: name the .onnx file in it")
    try:
        model = onnx.load(str(file), format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise OnnxCbpError(f"'{file}' does not exist") from None
    except OSError as error:
        raise OnnxCbpError(f"'{file}' cannot be read: {error.strerror}") from None
    except (DecodeError, ValueError, TypeError):
        raise OnnxCbpError(f"'{file}' is not an ONNX model, or is cut short") from None
    if not model.ir_version or not (model.graph.node or model.graph.output):
        raise OnnxCbpError(f"'{file}' is not an ONNX model: it has no IR version or no graph")
    if external_data:
        load_external_data(model, file)
    else:
        check_external_data(model, file)
    return model


def save_model(model: onnx.ModelProto, path: str | os.PathLike[str], *, largest: int | None = None) -> None:
    """Write a model, whole or not at all; it is not changed.

    If a model is above 2 GiB, its weights go to `<path>.<16 digits>.data`. No file had that name before. So the
    renaming that puts the model in place decides between the old model with its data, and the new one with its own.
    Data files that belonged only to the old model are then removed. A replaced file passes on its mode.

    Args:
        model: the model.
        path: the file.
        largest: the most bytes of the file, before its weights go to a separate file; None: 2 GiB.

    Raises:
        OnnxCbpError: one line: a folder that is not there or that cannot be written, a disk that is full, more than
            2 GiB outside of tensors.
    """
    limit = _LARGEST_MESSAGE if largest is None else largest
    replacement = Replacement(path, ".onnx file")
    file = replacement.file
    try:
        with replacement.scratch() as scratch:
            old = _data_of_its_own(file)
            skeleton, large = without_large(model)
            if sum(math.prod(each.tensor.dims) for each in large) > _MANY:
                gc.collect()  # onnx-ir's graphs have reference cycles, and may hold the source model
            if _size(skeleton, large) <= limit:
                if sum(_bytes(each.tensor) for each in large) > _MUCH:
                    _write_whole(skeleton, large, scratch / file.name)
                else:
                    onnx.save_model(model, str(scratch / file.name))
                replacement.put(scratch / file.name)
            else:
                data = scratch / replacement.fresh_name(".data")
                _write_data(_chosen(skeleton, large, limit), data)
                onnx.save_model(skeleton, str(scratch / file.name))
                data = replacement.put_beside(data)
                try:
                    replacement.put(scratch / file.name)
                except BaseException:
                    data.unlink()
                    raise
        for superseded in old:
            with contextlib.suppress(OSError):  # the model is written; unnecessary files may stay
                superseded.unlink()
    except EncodeError:
        raise OnnxCbpError(
            f"'{file}' cannot be written: the model has more than 2 GiB outside of its tensors"
        ) from None
    except OSError as error:
        raise OnnxCbpError(f"'{file}' cannot be written: {error.strerror or error}") from None


def _data_of_its_own(file: Path) -> list[Path]:
    """The data files that a model's file names, that are named after it, and that no other file next to it names."""
    begins = (f"{file.name}.", f"{file.name}_", f"{file.stem}.data")
    candidates = [path for path in file.parent.iterdir() if path.name.startswith(begins) and path.is_file()]
    if not candidates or not file.is_file():
        return []
    try:
        named = locations(load_model(file, external_data=False))
    except OnnxCbpError:  # no model, or one with data outside its folder: then the owner of a file is not known
        return []
    named = {os.path.normpath(name) for name in named}
    candidates = [path for path in candidates if path.name in named]
    if not candidates:
        return []
    others = [path for path in file.parent.iterdir() if path.name not in (file.name, *named) and path.is_file()]
    return [path for path in candidates if not any(_may_name(other, path.name) for other in others)]


def _may_name(other: Path, name: str) -> bool:
    """Whether a file is perhaps a model that names a file: whether that text is anywhere in it."""
    try:
        with other.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if len(content) > _SEARCHED and content[: len(_MODEL_BEGINS)] != _MODEL_BEGINS:
                return False
            return content.find(name.encode()) >= 0
    except ValueError:  # an empty file cannot be mapped
        return False
    except OSError:  # it cannot be read
        return True


def fits_one_message(model: onnx.ModelProto, largest: int | None = None) -> bool:
    """Whether a model can be serialized: whether it has less than 2 GiB, or at most `largest` bytes."""
    return _size(*without_large(model)) <= (_LARGEST_MESSAGE if largest is None else largest)


def _size(skeleton: onnx.ModelProto, large: Sequence[Large]) -> int:
    """The approximate size of the whole model, computed without serializing it, as protobuf would do."""
    return skeleton.ByteSize() + sum(_bytes(each.tensor) + 16 for each in large)


def _bytes(tensor: onnx.TensorProto) -> int:
    return len(tensor.raw_data) if tensor.HasField("raw_data") else tensor.ByteSize()


def _chosen(skeleton: onnx.ModelProto, large: Sequence[Large], limit: int) -> list[Large]:
    """The tensors that go into a data file; those in attributes only if the model is still too large with them."""
    attributes = [each for each in large if each.holder == "node"]
    if _size(skeleton, attributes) > limit:
        return list(large)
    for each in attributes:
        each.place.CopyFrom(each.tensor)
    return [each for each in large if each.holder != "node"]


def _write_whole(skeleton: onnx.ModelProto, large: Sequence[Large], path: Path) -> None:
    """Write a model in one file, tensor by tensor: protobuf would copy all of it in memory once more.

    A message is a sequence of fields in any order. So the graph comes after the model's other fields, and its
    initializers, in order, after its other fields: each is a tag, a length, and the content.
    """
    for each in large:
        if each.holder != "graph":
            each.place.CopyFrom(each.tensor)
    graph, heavy = skeleton.graph, iter([each.tensor for each in large if each.holder == "graph"])
    tensors = [_Encoded.of(place, next(heavy) if is_large(place) else None) for place in graph.initializer]
    del graph.initializer[:]
    rest = graph.SerializeToString()
    skeleton.ClearField("graph")
    with path.open("wb") as file:
        file.write(skeleton.SerializeToString())
        file.write(_tag(skeleton, "graph", len(rest) + sum(each.total for each in tensors)))
        file.write(rest)
        for tensor in tensors:
            tensor.write(file)


@dataclass(frozen=True)
class _Encoded:
    """An initializer as it is written.

    Attributes:
        begin: everything except its data, if these are written separately.
        data: the tensor with the data; None if `begin` is everything.
    """

    begin: bytes
    data: onnx.TensorProto | None

    @classmethod
    def of(cls, place: onnx.TensorProto, tensor: onnx.TensorProto | None) -> _Encoded:
        """How to write a tensor whose place in the skeleton has everything except its data."""
        if tensor is None or any(field.name not in _USUAL for field, _ in tensor.ListFields()):
            content = (place if tensor is None else tensor).SerializeToString()
            return cls(_tag(onnx.GraphProto(), "initializer", len(content)) + content, None)
        head, size = place.SerializeToString(), len(tensor.raw_data)
        of_data = _tag(tensor, "raw_data", size)
        return cls(_tag(onnx.GraphProto(), "initializer", len(head) + len(of_data) + size) + head + of_data, tensor)

    @property
    def total(self) -> int:
        """Bytes."""
        return len(self.begin) + (0 if self.data is None else len(self.data.raw_data))

    def write(self, file: BinaryIO) -> None:
        """Write it."""
        file.write(self.begin)
        if self.data is not None:
            file.write(self.data.raw_data)


def _tag(message: Message, field: str, length: int) -> bytes:
    """The bytes before a field of a message with a length, in protobuf's encoding."""
    number = message.DESCRIPTOR.fields_by_name[field].number
    return _varint(number << 3 | _HAS_LENGTH) + _varint(length)


_HAS_LENGTH = 2


def _varint(value: int) -> bytes:
    """An integer in bytes of seven bits, the lowest first; all but the last byte have the highest bit set."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _write_data(large: Sequence[Large], data: Path) -> None:
    """Write the data of tensors to a file, and their places in it to the skeleton."""
    with data.open("wb") as file:
        for each in large:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            start = file.tell()
            file.write(_content(each.tensor))
            entries = {"location": data.name, "offset": start, "length": file.tell() - start}
            each.place.data_location = onnx.TensorProto.EXTERNAL
            for key, value in entries.items():
                each.place.external_data.add(key=key, value=str(value))


def _content(tensor: onnx.TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    import onnx_ir as ir  # it takes a quarter of a second to import

    return bytes(ir.from_proto(tensor).tobytes())
