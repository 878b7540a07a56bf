"""The ops of the CUDA provider without a GPU: a build whose kernels and provider are the processor's.

`cmake -DONNX_CBP_CUDA=HOST` makes it: libonnx_cbp.so with the CUDA ops alone, registered for the CPU provider, and
beside it libonnx_cbp_cuda.so with the kernels compiled for the processor.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnx_cbp.custom_ops import library

VARIABLE = "ONNX_CBP_CUDA_ADAPTER"


def folder() -> Path | None:
    """Where the build is; None where the variable names none."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else None


def needed_folder() -> Path:
    """Where the build is; skips where there is none."""
    found = folder()
    if found is None:
        pytest.skip(f"{VARIABLE} names no folder of a build with ONNX_CBP_CUDA=HOST; nox -s cuda does it")
    return found


def take_the_place_of_the_library() -> None:
    """Where there is such a build, all sessions and communicators of these tests get it for the installed library."""
    found = folder()
    if found is None:
        return
    path = found / "libonnx_cbp.so"
    if not path.is_file():
        raise pytest.UsageError(
            f"{VARIABLE} is '{found}', which has no libonnx_cbp.so: build it with ONNX_CBP_CUDA=HOST"
        )
    library.find_library = lambda: path
