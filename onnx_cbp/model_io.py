"""Reading and writing model files: one clear line for what cannot be read, and never half a file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from onnx_cbp.errors import OnnxCbpError

_LARGEST_MESSAGE = 2**31 - 1


def load_model(path: str | os.PathLike[str], *, external_data: bool = True) -> onnx.ModelProto:
    """Read a model, with its external data where that is asked for.

    Raises:
        OnnxCbpError: one line: no such file, a folder, no ONNX model, external data that is not there.
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
    if not external_data:
        return model
    try:
        onnx.load_external_data_for_model(model, str(file.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise OnnxCbpError(f"'{file}': its external data cannot be read: {reason}") from None
    return model


def save_model(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model, whole or not at all; weights go to `<path>.data` where the model exceeds 2 GiB.

    Raises:
        OnnxCbpError: one line: a folder that is not there or that cannot be written.
    """
    file = Path(path)
    if file.is_dir():
        raise OnnxCbpError(f"'{file}' is a folder: name the .onnx file to write")
    if file.exists() and not file.is_file():
        # A file put in the place of /dev/null, say, would harm everything that writes there.
        raise OnnxCbpError(f"'{file}' is no regular file: name an .onnx file to write")
    file = file.resolve()  # a link stays a link, to the new file
    if not file.parent.is_dir():
        raise OnnxCbpError(f"'{file}' cannot be written: the folder '{file.parent}' does not exist")
    try:
        with _scratch(file) as scratch:
            if _exceeds_one_message(model):
                data = f"{file.name}.data"
                onnx.save_model(model, str(scratch / file.name), save_as_external_data=True, location=data)
                # Newer onnx keeps the data to its owner; it is as public as the model.
                (scratch / data).chmod((scratch / file.name).stat().st_mode)
                (scratch / data).replace(file.parent / data)
            else:
                onnx.save_model(model, str(scratch / file.name))
            (scratch / file.name).replace(file)
    except OSError as error:
        raise OnnxCbpError(f"'{file}' cannot be written: {error.strerror or error}") from None


def _exceeds_one_message(model: onnx.ModelProto) -> bool:
    try:
        return model.ByteSize() > _LARGEST_MESSAGE
    except EncodeError:  # protobuf's usual backend cannot even count that far
        return True


@contextlib.contextmanager
def _scratch(file: Path) -> Iterator[Path]:
    """A folder beside the file, so that a finished file can be moved into place at once."""
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        yield Path(folder)
