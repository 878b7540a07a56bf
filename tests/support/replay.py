"""Calls of the plain C functions, recorded for a program that replays them (tests/variants/replay.cc)."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Sequence

import numpy as np

from onnx_cbp.custom_ops.library import function_name, number_arguments
from support.ops import Case


def record(case: Case) -> bytes:
    """The call of an op's C function, as the program reads it."""
    binding = case.operator.bind(case.inputs, case.attributes)
    outputs = _outputs(case)
    numbers = number_arguments(case.operator, binding, case.inputs, outputs, case.attributes)
    name = function_name(case.operator).encode()
    parts = [struct.pack("=q", len(name)), name]
    parts.append(struct.pack("=q", len(numbers) + len(case.inputs) + len(outputs)))
    parts += [struct.pack("=d" if isinstance(n, ctypes.c_double) else "=q", n.value) for n in numbers]
    for array in case.inputs:
        parts += [struct.pack("=q", array.nbytes), array.tobytes()]
    parts += [struct.pack("=q", array.nbytes) for array in outputs]
    return b"".join(parts)


def replay(command: Sequence[str], cases: Sequence[Case]) -> list[tuple[np.ndarray, ...]]:
    """The outputs of the cases, computed by the program in one run.

    Raises:
        RuntimeError: the program failed; the message is what it said.
    """
    calls = b"".join(record(case) for case in cases)
    done = subprocess.run(command, input=calls, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace") or f"{command} ended with {done.returncode}")
    results, at = [], 0
    for case in cases:
        outputs = _outputs(case)
        for array in outputs:
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(done.stdout, np.uint8, array.nbytes, at)
            at += array.nbytes
        results.append(outputs)
    assert at == len(done.stdout), "the program wrote more than the results"
    return results


def _outputs(case: Case) -> tuple[np.ndarray, ...]:
    binding = case.operator.bind(case.inputs, case.attributes)
    return tuple(np.zeros(s, d) for s, d in zip(binding.output_shapes, binding.output_dtypes, strict=True))
