"""Calls of the plain C functions, recorded for a program that replays them (tests/variants/replay.cc)."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_cbp.custom_ops.library import function_name, number_arguments
from support.ops import Case


def record(case: Case, *, name: str | None = None, first: bytes = b"", shift: int = 0) -> bytes:
    """The call of an op's C function, as the program reads it; texts have their terminating zero.

    Args:
        case: the op with its inputs.
        name: another function on the same arguments.
        first: a recorded argument in front of those.
        shift: by how many of their elements arrays lie behind a multiple of 16 bytes.
    """
    binding = case.operator.bind(case.inputs, case.attributes)
    outputs = _outputs(case)
    numbers = number_arguments(case.operator, binding, case.inputs, outputs, case.attributes)
    function = (name or function_name(case.operator)).encode()
    parts = [struct.pack("=q", len(function)), function]
    parts.append(struct.pack("=q", len(numbers) + len(case.inputs) + len(outputs) + (1 if first else 0)))
    parts.append(first)
    parts += map(_recorded, numbers)
    for array in case.inputs:
        parts += [struct.pack("=qq", array.nbytes, shift * array.itemsize), array.tobytes()]
    parts += [struct.pack("=qq", array.nbytes, shift * array.itemsize) for array in outputs]
    return b"".join(parts)


def _recorded(argument: Any) -> bytes:
    if isinstance(argument, ctypes.c_char_p):
        text = argument.value + b"\0"
        return struct.pack("=qq", len(text), 0) + text
    if isinstance(argument, ctypes.Array):
        return struct.pack("=qq", ctypes.sizeof(argument), 0) + bytes(argument)
    return struct.pack("=d" if isinstance(argument, ctypes.c_double) else "=q", argument.value)


def replay(
    command: Sequence[str], cases: Sequence[Case], target: str, *, shift: int = 0, **environment: str
) -> list[tuple[np.ndarray, ...]]:
    """The outputs of the cases, computed for a target by the program in one run.

    Args:
        command: the program.
        cases: ops with their inputs.
        target: its name.
        shift: by how many of their elements arrays lie behind a multiple of 16 bytes.
        environment: what else the program finds there.

    Raises:
        RuntimeError: the program failed; the message is what it said.
    """
    calls = b"".join(record(case, shift=shift) for case in cases)
    return replay_calls(command, cases, calls, {"ONNX_CBP_TARGET": target, **environment})


def replay_calls(
    command: Sequence[str], cases: Sequence[Case], calls: bytes, environment: Mapping[str, str]
) -> list[tuple[np.ndarray, ...]]:
    """The outputs of recorded calls, one for each case, computed by the program in one run.

    Raises:
        RuntimeError: the program failed; the message is what it said.
    """
    written = run_program(command, calls, environment)
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
    return run_program([*command, "--target"], b"", {"ONNX_CBP_TARGET": target}).decode().strip()


def run_program(command: Sequence[str], given: bytes, environment: Mapping[str, str]) -> bytes:
    """What a program writes; `environment` is what it has beyond our own variables.

    Raises:
        RuntimeError: the program failed; the message is what it said.
    """
    done = subprocess.run(command, input=given, capture_output=True, check=False, env={**os.environ, **environment})
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace") or f"{command} ended with {done.returncode}")
    return done.stdout


def _outputs(case: Case) -> tuple[np.ndarray, ...]:
    binding = case.operator.bind(case.inputs, case.attributes)
    return tuple(np.zeros(s, d) for s, d in zip(binding.output_shapes, binding.output_dtypes, strict=True))
