"""The CUDA library as it is installed: what it shows, what it needs, for which GPUs it is, and that nobody loads it."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from support.gpu.cuda import CUDA_LIBRARY, installed_library
from support.native_table import CUDA_FUNCTIONS, declared

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
        pytest.skip(f"this installation has no {CUDA_LIBRARY}: nox -s cuda installs it where nvcc is")
    return path


def _tool(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def test_it_shows_what_its_header_declares_and_nothing_else(library):
    shown = declared("cuda/c_api.h") | CUDA_FUNCTIONS
    command = [_tool("nm"), "--dynamic", "--defined-only", "--format=posix", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listing.splitlines()} == shown
    assert len(shown) > 15


def test_it_needs_neither_driver_nor_cuda(library):
    command = [_tool("readelf"), "--dynamic", "--wide", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\)\s+Shared library: \[(.*?)\]", listing)
    assert needed
    allowed = re.compile(r"(libc|libm|libdl|librt|libpthread)\.so\.\d+|ld-linux.*")
    assert [name for name in needed if not allowed.fullmatch(name)] == []
    assert "RUNPATH" not in listing
    assert "RPATH" not in listing


def test_it_has_code_for_every_generation_and_ptx_for_later_ones(library):
    """As cmake/CudaGpus.cmake says, where nobody wished for other GPUs and this machine has none of its own."""
    codes = set(_codes(library.read_bytes()))
    machine = {number for kind, number in codes if kind == MACHINE_CODE}
    assert machine
    if shutil.which("nvidia-smi") or "CUDAARCHS" in os.environ:
        pytest.skip(f"the library is for the GPUs of this machine, or for those that were named: {sorted(machine)}")
    assert {75, 80, 90} <= machine
    assert {number for kind, number in codes if kind == PTX} == {80}


def test_cuobjdump_sees_the_same(library):
    codes = set(_codes(library.read_bytes()))
    for flag, kind in (("--list-elf", MACHINE_CODE), ("--list-ptx", PTX)):
        command = [_cuobjdump(), flag, str(library)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        listed = {int(number) for number in re.findall(r"\bsm_(\d+)", listing)}
        assert listed == {number for of, number in codes if of == kind}


@pytest.fixture(scope="module")
def instructions(library):
    """Those for one GPU, in text: it takes some seconds."""
    machine = min(number for kind, number in _codes(library.read_bytes()) if kind == MACHINE_CODE and number >= 80)
    folders = [str(Path(_cuobjdump()).parent), os.environ["PATH"]]
    if shutil.which("nvdisasm", path=os.pathsep.join(folders)) is None:
        pytest.skip("there is no nvdisasm here, which cuobjdump needs: pip's nvidia-cuda-nvdisasm has it")
    command = [_cuobjdump(), "--dump-sass", "--gpu-architecture", f"sm_{machine}", str(library)]
    environment = {**os.environ, "PATH": os.pathsep.join(folders)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.mark.parametrize("element", ["Float16", "BFloat16"])
def test_elements_of_16_bits_are_stored_eight_bytes_at_a_time(instructions, element):
    """nvcc splits such a store where it is an assignment, and the forward pass then writes 4 bytes a time."""
    kernel = re.compile(rf"Function : \S*MapPlanes\S*NormalizeToIN\w*{len(element)}{element}\w*Li4E")
    found = 0
    for function in re.split(r"(?=\tFunction : )", instructions):
        if not kernel.search(function):
            continue
        found += 1
        stores = re.findall(r"\bSTG(?:\.\w+)*", function)
        assert stores
        assert {width for store in stores for width in re.findall(r"\.(64|128)\b", store) or ["32"]} == {"64"}, stores
    assert found > 0


def _cuobjdump():
    """The toolkit's, or that of NVIDIA's package nvidia-cuda-cuobjdump."""
    if found := shutil.which("cuobjdump"):
        return found
    for folder in map(Path, sys.path):
        for path in folder.glob("nvidia/*/bin/cuobjdump"):
            return str(path)
    pytest.skip("there is no cuobjdump here: the CUDA toolkit has it, and pip's nvidia-cuda-cuobjdump")


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
    from support.gpu.cuda import Kernels

    kernels = Kernels(library)
    assert kernels.interface() == 2
    why = kernels.why_unusable()
    if shutil.which("nvidia-smi"):
        pytest.skip(f"there is a driver here; of its GPUs CUDA says: {why}")
    assert kernels.workspace(2, 3, 4) == -1
    assert why is not None
    assert "CUDA driver version is insufficient" in why
    assert "there is no NVIDIA driver" in why
    assert "\n" not in why


#: A driver for CUDA 11.4 as far as CUDA's runtime looks at it before it gives up.
OLD_DRIVER = """
extern "C" int cuDriverGetVersion(int* version) { *version = 11040; return 0; }
extern "C" int cuInit(unsigned) { return 0; }
"""


def test_a_driver_that_is_too_old_is_told_with_its_number(library, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to make a driver with")
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a driver here")
    (tmp_path / "driver.cc").write_text(OLD_DRIVER)
    command = ["g++", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(tmp_path / "driver.cc")]
    subprocess.run([*command, "-o", str(tmp_path / "libcuda.so.1")], check=True)
    tests = str(Path(__file__).parents[1])
    ask = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from support.gpu.cuda import Kernels; "
    )
    ask += "print(Kernels(Path(sys.argv[2])).why_unusable())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    command = [sys.executable, "-c", ask, tests, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert "the NVIDIA driver is one for CUDA 11.4" in done.stdout
    assert "install a newer driver" in done.stdout
