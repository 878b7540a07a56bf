"""Calls of the plain C functions, recorded for a program that replays them (tests/variants/replay.cc)."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_cbp.custom_ops.library import function_name, number_arguments
from support.ops import Case


def record(case: Case) -> bytes:
    """The call of an op's C function, as the program reads it; texts have their terminating zero."""
    binding = case.operator.bind(case.inputs, case.attributes)
    outputs = _outputs(case)
    numbers = number_arguments(case.operator, binding, case.inputs, outputs, case.attributes)
    name = function_name(case.operator).encode()
    parts = [struct.pack("=q", len(name)), name]
    parts.append(struct.pack("=q", len(numbers) + len(case.inputs) + len(outputs)))
    parts += map(_recorded, numbers)
    for array in case.inputs:
        parts += [struct.pack("=q", array.nbytes), array.tobytes()]
    parts += [struct.pack("=q", array.nbytes) for array in outputs]
    return b"".join(parts)


def _recorded(argument: Any) -> bytes:
    if isinstance(argument, ctypes.c_char_p):
        text = argument.value + b"\0"
        return struct.pack("=q", len(text)) + text
    return struct.pack("=d" if isinstance(argument, ctypes.c_double) else "=q", argument.value)


def replay(command: Sequence[str], cases: Sequence[Case], target: str) -> list[tuple[np.ndarray, ...]]:
    """The outputs of the cases, computed for a target by the program in one run.

    Raises:
        RuntimeError: the program failed; the message is what it said.
    """
    calls = b"".join(record(case) for case in cases)
    written = _run(command, calls, target)
    results, at = [], 0
    for case in cases:
        outputs = _outputs(case)
        for array in outputs:
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(written, np.uint8, array.nbytes, at)
            at += array.nbytes
        results.append(outputs)
    assert at == len(written), "the program wrote more than the results"
    return results


def target_of(command: Sequence[str], target: str) -> str:
    """The target that the program runs when it is asked for one."""
    return _run([*command, "--target"], b"", target).decode().strip()


def _run(command: Sequence[str], given: bytes, target: str) -> bytes:
    environment = {**os.environ, "ONNX_CBP_TARGET": target}
    done = subprocess.run(command, input=given, capture_output=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace") or f"{command} ended with {done.returncode}")
    return done.stdout


def _outputs(case: Case) -> tuple[np.ndarray, ...]:
    binding = case.operator.bind(case.inputs, case.attributes)
    return tuple(np.zeros(s, d) for s, d in zip(binding.output_shapes, binding.output_dtypes, strict=True))
