"""The native library: where it is, and its plain C functions (docs/internals/native_interface.md)."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from onnx_cbp.custom_ops.operator import STRUCTURAL_ATTRIBUTES, Arrays, Binding, Operator
from onnx_cbp.errors import OnnxCbpError

_FILE_NAME = "libonnx_cbp.so"
_CUDA_FILE_NAME = "libonnx_cbp_cuda.so"
#: The environment variable that tells our library where the library of CUDA kernels is (ort/cuda/cuda_library.cc).
_CUDA_VARIABLE = "ONNX_CBP_CUDA_LIBRARY"
_C_TYPES: dict[type, Any] = {int: ctypes.c_int, float: ctypes.c_double, str: ctypes.c_char_p}


def find_library() -> Path | None:
    """The native library's file; None in a pure-Python installation."""
    # With importlib.resources, because in an editable installation the library is not next to this file.
    path = resources.files("onnx_cbp.custom_ops") / _FILE_NAME
    return Path(str(path)) if path.is_file() else None


def get_library_path() -> str:
    """Path of the native op library, for `SessionOptions.register_custom_ops_library`.

    Raises:
        OnnxCbpError: this installation has no native library.
    """
    path = find_library()
    if path is None:
        raise OnnxCbpError(
            "this installation of onnx-cbp has no native library: reinstall it without ONNX_CBP_NATIVE=OFF, or use "
            "register(session_options, backend='python')"
        )
    return str(path)


def find_cuda_library() -> Path | None:
    """The library of CUDA kernels: one of this build, or of the package onnx_cbp_cuda; None if there is neither."""
    for package in ("onnx_cbp.custom_ops", "onnx_cbp_cuda"):
        if importlib.util.find_spec(package) is not None:
            path = resources.files(package) / _CUDA_FILE_NAME
            if path.is_file():
                return Path(str(path))
    return None


def name_cuda_library() -> None:
    """Tell the native library where the package onnx_cbp_cuda is, if it would not find that by itself.

    It searches next to its own file and its own package, but an installation may have several folders of packages.
    """
    library, kernels = find_library(), find_cuda_library()
    if library is None or kernels is None:
        return
    looked_at = (library.parent, library.parent.parent.parent / "onnx_cbp_cuda")
    if not any((folder / _CUDA_FILE_NAME).is_file() for folder in looked_at):
        os.environ.setdefault(_CUDA_VARIABLE, str(kernels))


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The native library, loaded for its C functions; None in a pure-Python installation."""
    path = find_library()
    return None if path is None else ctypes.CDLL(str(path))


def native_target() -> str | None:
    """The name of the instruction set that the kernels use here (onnx_cbp_target); None without the library."""
    library = load_library()
    if library is None:
        return None
    library.onnx_cbp_target.restype = ctypes.c_char_p
    return str(library.onnx_cbp_target().decode())


def call_native(operator: Operator, inputs: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> Arrays:
    """Run an op's C++ kernel on numpy arrays, on this thread.

    Raises:
        ValueError: an input or attribute that does not fit, in one line.
        OnnxCbpError: this installation has no native library.
    """
    library = load_library()
    if library is None:
        get_library_path()  # raises an error that says what is missing and what to do
    binding = operator.bind(inputs, attributes)
    arrays = [np.ascontiguousarray(value).reshape(value.shape) for value in inputs]
    outputs = tuple(
        np.empty(shape, dtype) for shape, dtype in zip(binding.output_shapes, binding.output_dtypes, strict=True)
    )
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays, *outputs)]
    error = _function(operator)(*number_arguments(operator, binding, arrays, outputs, attributes), *pointers)
    if error is not None:
        raise ValueError(f"{operator}: {error.decode()}")
    return outputs


@functools.cache
def _function(operator: Operator) -> Any:
    function = getattr(load_library(), function_name(operator))
    function.restype = ctypes.c_char_p
    return function


def function_name(operator: Operator) -> str:
    """The name of an op's plain C function."""
    return "onnx_cbp" + "".join(f"_{c.lower()}" if c.isupper() else c for c in operator.name)


def number_arguments(
    operator: Operator,
    binding: Binding,
    inputs: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    attributes: Mapping[str, Any],
) -> list[Any]:
    """Types, sizes and attributes: the first arguments of every function of c_api.h."""
    import onnx_ir as ir  # here, since it is slow to import, and registering the library does not need it

    formals = zip(operator.inputs + operator.outputs, (*inputs, *outputs), strict=True)
    numbers = {t.type: ir.DataType.from_numpy(value.dtype).value for t, value in formals}
    arguments: list[Any] = [ctypes.c_int(numbers[name]) for name in ("T", "U") if name in numbers]
    for size in binding.sizes:
        arguments.append((ctypes.c_int64 * len(size))(*size) if isinstance(size, tuple) else ctypes.c_int64(size))
    stored = {
        name: value.encode() if isinstance(value, str) else value
        for name, value in operator.as_stored(attributes).items()
    }
    for attribute in operator.attributes:
        if attribute.name not in STRUCTURAL_ATTRIBUTES:  # these are part of the sizes and types
            arguments.append(_C_TYPES[type(attribute.default)](stored[attribute.name]))
    return arguments
