"""The CUDA kernels as they were compiled for the processor (tests/cuda_kernels), on devices that it pretends to be."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnx_cbp.custom_ops.library import function_name
from support.ops import Case
from support.programs.replay import record, replay_calls


@dataclass(frozen=True)
class HostDevice:
    """What a launch depends on: custom_ops/native/cuda/threads/host_device.h has the meanings."""

    multiprocessors: int = 132
    shared: int = 115_200
    backwards: bool = False
    grid: int = 2**31 - 1
    slow_double: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """The variable that tells a program."""
        numbers = (self.multiprocessors, self.shared, int(self.backwards), self.grid, int(self.slow_double))
        return {"ONNX_CBP_CUDA_HOST_DEVICE": ",".join(map(str, numbers))}


#: Each takes other ways through the kernels.
DEVICES = {
    "H100": HostDevice(),
    "one multiprocessor, small grids": HostDevice(multiprocessors=1, grid=3),
    "slow in double": HostDevice(multiprocessors=40, shared=32_256, slow_double=True),
    "without shared memory": HostDevice(multiprocessors=3, shared=32 * 1024 + 64 - 1024),
}


def program(name: str) -> Path:
    """A program of tests/cuda_kernels; skips where none was built."""
    built = os.environ.get("ONNX_CBP_CUDA_KERNELS")
    if not built:
        pytest.skip("ONNX_CBP_CUDA_KERNELS names no folder of built programs; nox -s cuda_kernels does it")
    return Path(built) / name


def run_on_host(
    cases: Sequence[Case],
    device: HostDevice = DEVICES["H100"],
    *,
    shift: int = 0,
    command: Sequence[str] = (),
) -> list[tuple[np.ndarray, ...]]:
    """The outputs of the cases; arrays begin `shift` elements behind a multiple of 16 bytes.

    `command` is another program than the usual one, with its arguments.

    Raises:
        RuntimeError: a function answered an error, or a sanitizer found one.
    """
    return replay_calls(
        command or [str(program("replay_cuda"))], cases, b"".join(_record(c, shift) for c in cases), device.environment
    )


def _record(case: Case, shift: int) -> bytes:
    binding = case.operator.bind(case.inputs, case.attributes)
    layout = binding.layout
    shape = (layout.outer, layout.channels, layout.inner) if case.operator.has_data else (1, binding.sizes[-1], 1)
    name = function_name(case.operator).replace("onnx_cbp_", "onnx_cbp_cuda_", 1)
    return record(case, name=name, first=struct.pack("=3q", *shape), shift=shift)
