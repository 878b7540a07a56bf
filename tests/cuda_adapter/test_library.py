"""The CUDA library as it is installed: what it shows, what it needs, for which GPUs it is, and that nobody loads it."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from support.cuda import CUDA_LIBRARY, installed_library

C_API = Path(__file__).parents[2] / "custom_ops" / "native" / "cuda" / "c_api.h"

#: How a fat binary begins: its number, version 1, a header of 16 bytes.
FAT_BINARY = struct.pack("<IHH", 0xBA55ED50, 1, 16)
PTX, MACHINE_CODE = 1, 2

USE_ON_THE_PROCESSOR = """
import sys
sys.path.insert(0, sys.argv[1])
import onnx_cbp
from support.ops import make_case, run
from onnx_cbp.custom_ops.library import call_native
case = make_case("BatchNormTrain", (2, 3, 4))
run(case, "native")
call_native(case.operator, case.inputs, case.attributes)
print(open("/proc/self/maps").read())
"""


@pytest.fixture(scope="module")
def library():
    path = installed_library()
    if path is None:
        pytest.skip(f"this installation has no {CUDA_LIBRARY}: there was no nvcc where it was built")
    return path


def _tool(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def test_it_shows_what_its_header_declares_and_nothing_else(library):
    text = re.sub(r"/\*.*?\*/", "", C_API.read_text(), flags=re.DOTALL)
    declared = set(re.findall(r"\b(onnx_cbp_cuda_\w+)\(", text))
    command = [_tool("nm"), "--dynamic", "--defined-only", "--format=posix", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listing.splitlines()} == declared
    assert len(declared) > 15


def test_it_needs_neither_driver_nor_cuda(library):
    command = [_tool("readelf"), "--dynamic", "--wide", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\)\s+Shared library: \[(.*?)\]", listing)
    assert needed
    allowed = re.compile(r"(libc|libm|libdl|librt|libpthread)\.so\.\d+|ld-linux.*")
    assert [name for name in needed if not allowed.fullmatch(name)] == []
    assert "RUNPATH" not in listing
    assert "RPATH" not in listing


def test_it_has_code_for_these_gpus_and_ptx_for_later_ones(library):
    assert set(_codes(library.read_bytes())) == {(MACHINE_CODE, 80), (MACHINE_CODE, 90), (PTX, 90)}


@pytest.mark.parametrize(("flag", "codes"), [("--list-elf", {"sm_80", "sm_90"}), ("--list-ptx", {"sm_90"})])
def test_cuobjdump_sees_the_same(library, flag, codes):
    command = [_tool("cuobjdump"), flag, str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"\bsm_\d+", listing)) == codes


def _codes(content):
    """Kind and architecture of each piece of code in a file, as nvcc's fat binaries list them."""
    begin = content.find(FAT_BINARY)
    while begin >= 0:
        at, (size,) = begin + 16, struct.unpack_from("<Q", content, begin + 8)
        end = at + size
        while at < end:
            kind, header, size = struct.unpack_from("<HxxIQ", content, at)
            yield kind, struct.unpack_from("<I", content, at + 28)[0]
            at += header + size
        begin = content.find(FAT_BINARY, end)


@pytest.mark.native
def test_on_the_processor_nobody_loads_it(library, tmp_path):
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", USE_ON_THE_PROCESSOR, tests]
    maps = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "libonnx_cbp.so" in maps
    assert CUDA_LIBRARY not in maps
    assert "libcuda" not in maps


def test_it_loads_without_a_gpu_and_says_so(library):
    from support.cuda import Kernels

    kernels = Kernels(library)
    assert kernels.interface() == 1
    assert kernels.workspace(2, 3, 4) >= -1
