"""The CUDA kernels' plain C functions (custom_ops/native/cuda/c_api.h), on the memory of a GPU or of the processor.

A device is where the arrays are: a GPU, through PyTorch's tensors; or, for the build of the kernels for the processor,
numpy's arrays or PyTorch's tensors of the CPU, so that nearly all that runs on a GPU's machine runs without one too.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_cbp.custom_ops.library import find_cuda_library, function_name, number_arguments
from support.gpu import cuda_adapter
from support.ops import WITH_CUDA_KERNELS, Case

CUDA_LIBRARY = "libonnx_cbp_cuda.so"
#: Ops with a CUDA kernel; collectives run on copies in the processor's memory.
OPS = WITH_CUDA_KERNELS

#: In front of and behind each array, and in arrays that nothing was written to.
_GUARD = 256
_UNTOUCHED = 0xA5
#: The workspace has no alignment beyond the one that is promised to a caller.
_WORKSPACE_ALIGNMENT = 16
#: What a workspace holds when a call begins: not-a-numbers, and -1.
_LEFT_OVER = 0xFF


def installed_library() -> Path | None:
    """The CUDA library of this installation: that of the package onnx_cbp_cuda; None where it is not installed."""
    return find_cuda_library()


class Device:
    """Memory of numpy's: for kernels that were built for the processor."""

    stream = 0

    def allocate(self, size: int, value: int) -> Any:
        """Bytes of one value, as an array that this device's other functions take."""
        return np.full(size, value, np.uint8)

    def pointer(self, memory: Any) -> int:
        """The address of the first byte."""
        return int(memory.ctypes.data)

    def write(self, memory: Any, at: int, content: np.ndarray) -> None:
        """Copy bytes to it."""
        memory[at : at + content.size] = content

    def read(self, memory: Any) -> np.ndarray:
        """Copy all of it."""
        return memory.copy()


class TorchDevice(Device):
    """Memory of PyTorch's, and the stream that is PyTorch's current one."""

    def __init__(self, name: str) -> None:
        import torch

        self._torch = torch
        self.name = name

    @property
    def stream(self) -> int:  # type: ignore[override]
        """PyTorch's current stream."""
        return int(self._torch.cuda.current_stream().cuda_stream) if self.name == "cuda" else 0

    def allocate(self, size: int, value: int) -> Any:
        return self._torch.full((size,), value, dtype=self._torch.uint8, device=self.name)

    def pointer(self, memory: Any) -> int:
        return int(memory.data_ptr())

    def write(self, memory: Any, at: int, content: np.ndarray) -> None:
        memory[at : at + content.size] = self._torch.from_numpy(content.copy()).to(self.name)

    def read(self, memory: Any) -> np.ndarray:
        return np.array(memory.cpu().numpy())


class Buffer:
    """An array in a device's memory, with guards on both sides."""

    def __init__(self, device: Device, size: int, *, offset: int = 0, alignment: int = _GUARD, fill: int = _UNTOUCHED):
        self._device = device
        self._memory = device.allocate(size + offset + 3 * _GUARD, _UNTOUCHED)
        start = device.pointer(self._memory)
        # `offset` bytes behind a multiple of 256, or of the alignment and no more.
        self._begin = -start % _GUARD + _GUARD + (alignment if alignment < _GUARD else 0) + offset
        self.size = size
        self.pointer = start + self._begin
        if fill != _UNTOUCHED:
            device.write(self._memory, self._begin, np.full(size, fill, np.uint8))

    def put(self, array: np.ndarray) -> Buffer:
        """Copy an array of this size to it."""
        self._device.write(self._memory, self._begin, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return self

    def put_later(self, tensor: Any) -> None:
        """Queue a copy of PyTorch's bytes in pinned memory on PyTorch's current stream."""
        self._memory[self._begin : self._begin + self.size].copy_(tensor, non_blocking=True)

    def get(self, what: str) -> np.ndarray:
        """Its bytes; fails where the guards were written to."""
        content = self._device.read(self._memory)
        end = self._begin + self.size
        assert (content[: self._begin] == _UNTOUCHED).all(), f"written in front of {what}"
        assert (content[end:] == _UNTOUCHED).all(), f"written behind {what}"
        return content[self._begin : end]


class _Queue(ctypes.Structure):
    """onnx_cbp_cuda_queue."""

    _fields_ = (("stream", ctypes.c_void_p), ("workspace", ctypes.c_void_p))


class _Copy(ctypes.Structure):
    """onnx_cbp_cuda_copy."""

    _fields_ = (("to", ctypes.c_void_p), ("source", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


class Kernels:
    """A library of the kernels: the one for GPUs, or the one for the processor."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.onnx_cbp_cuda_workspace.restype = ctypes.c_int64

    def interface(self) -> int:
        """The number that counts up when a function changes."""
        return int(self._library.onnx_cbp_cuda_interface())

    def why_unusable(self, device: int = -1) -> str | None:
        """Why the kernels cannot run on a device (-1: the current one), in one line; None where they can."""
        check = self._library.onnx_cbp_cuda_check
        check.restype = ctypes.c_char_p
        reason = check(device)
        return None if reason is None else reason.decode()

    def workspace(self, outer: int, channels: int, inner: int) -> int:
        """Bytes that are enough for every function on this shape; -1 without a device."""
        return int(self._library.onnx_cbp_cuda_workspace(*map(ctypes.c_int64, (outer, channels, inner))))

    def function(self, name: str) -> Any:
        """The function of an op by the name of its C function on the processor."""
        function = getattr(self._library, name.replace("onnx_cbp_", "onnx_cbp_cuda_", 1))
        function.restype = ctypes.c_char_p
        return function

    def call(self, name: str, stream: int, workspace: int, *arguments: Any) -> None:
        """Call an op's function.

        Raises:
            RuntimeError: the function answered an error; the message is its text.
        """
        error = self.function(name)(_Queue(stream, workspace), *arguments)
        if error is not None:
            raise RuntimeError(error.decode())

    def to_host(self, stream: int, *copies: tuple[int, int, int]) -> None:
        """Copy bytes (to, from, how many) to the processor's memory, and wait for all.

        Raises:
            RuntimeError: the function answered an error.
        """
        self._checked("to_host", ctypes.c_void_p(stream), (_Copy * len(copies))(*copies), ctypes.c_size_t(len(copies)))

    def to_device(self, stream: int, to: int, content: bytes) -> None:
        """Copy bytes to a device's memory by way of pinned memory, without a wait.

        Raises:
            RuntimeError: a function answered an error.
        """
        staging, memory = ctypes.c_void_p(), ctypes.c_void_p()
        self._checked("staging_new", ctypes.byref(staging))
        self._checked("staging_reserve", staging, ctypes.c_size_t(len(content)), ctypes.byref(memory))
        ctypes.memmove(memory, content, len(content))
        copy = (_Copy * 1)((to, memory, len(content)))
        self._checked("to_device", ctypes.c_void_p(stream), staging, copy, ctypes.c_size_t(1))
        self._library.onnx_cbp_cuda_staging_delete(staging)

    def _checked(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, f"onnx_cbp_cuda_{name}")
        function.restype = ctypes.c_char_p
        error = function(*arguments)
        if error is not None:
            raise RuntimeError(error.decode())

    def run(self, case: Case, device: Device, *, offset: int = 0) -> tuple[np.ndarray, ...]:
        """The outputs of an op; arrays begin `offset` elements behind a multiple of 256 bytes.

        Raises:
            RuntimeError: the function answered an error.
            AssertionError: it wrote where it must not.
        """
        return Prepared(self, case, device, offset=offset).run()


class Prepared:
    """A call of an op with its arrays in a device's memory, to be made more than once."""

    def __init__(self, kernels: Kernels, case: Case, device: Device, *, offset: int = 0) -> None:
        operator = case.operator
        binding = operator.bind(case.inputs, case.attributes)
        shapes = tuple(zip(binding.output_shapes, binding.output_dtypes, strict=True))
        empty = [np.empty(shape, dtype) for shape, dtype in shapes]
        self._kernels, self._device, self._name = kernels, device, function_name(operator)
        self._numbers = number_arguments(operator, binding, case.inputs, empty, case.attributes)
        self.inputs = [Buffer(device, v.nbytes, offset=offset * v.itemsize).put(v) for v in case.inputs]
        self._names = [t.name for t in operator.inputs + operator.outputs]
        self._arrays = (*case.inputs, *empty)
        self._outputs = [Buffer(device, v.nbytes, offset=offset * v.itemsize) for v in empty]
        layout = binding.layout
        sizes = (layout.outer, layout.channels, layout.inner) if operator.has_data else (1, binding.sizes[-1], 1)
        size = kernels.workspace(*sizes)
        assert size >= 0, "the device cannot be used"
        self._workspace = Buffer(device, size, alignment=_WORKSPACE_ALIGNMENT, fill=_LEFT_OVER)

    def enqueue(self) -> None:
        """Make the call on the device's stream."""
        pointers = [ctypes.c_void_p(buffer.pointer) for buffer in (*self.inputs, *self._outputs)]
        self._kernels.call(self._name, self._device.stream, self._workspace.pointer, *self._numbers, *pointers)

    def run(self) -> tuple[np.ndarray, ...]:
        """Make the call and fetch the outputs."""
        self.enqueue()
        self._workspace.get("the workspace")
        buffers = (*self.inputs, *self._outputs)
        contents = []
        for name, buffer, array in zip(self._names, buffers, self._arrays, strict=True):
            contents.append(buffer.get(name).view(array.dtype).reshape(array.shape))
        for name, before, after in zip(self._names, self._arrays, contents[: len(self.inputs)], strict=False):
            assert before.tobytes() == after.tobytes(), f"input '{name}' was written to"
        return tuple(contents[len(self.inputs) :])


def why_no_gpu() -> str | None:
    """Why kernels cannot run on a GPU here, in one line; None where they can."""
    if not find_spec("torch"):
        return "PyTorch is not installed here, through which the tests reach a GPU"
    import torch

    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU here"
    if installed_library() is None:
        return f"this installation has no {CUDA_LIBRARY}: install onnx-cbp-cuda, cmake/cuda_wheel"
    return None


def open_device(name: str) -> tuple[Kernels, Device]:
    """A device with the kernels for it, or a skipped test: "cuda", "host" or "host-torch"."""
    if name == "cuda":
        reason = why_no_gpu()
        if reason is not None:
            pytest.skip(reason)
        found = installed_library()
        assert found is not None
        return Kernels(found), TorchDevice("cuda")
    if name == "host-torch" and not find_spec("torch"):
        pytest.skip("PyTorch is not installed here")
    kernels = Kernels(cuda_adapter.needed_folder() / CUDA_LIBRARY)
    return kernels, TorchDevice("cpu") if name == "host-torch" else Device()
