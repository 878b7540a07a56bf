"""On which systems and processors the native libraries run: an old glibc, and a level of x86-64 for each kernel."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from onnx_cbp.custom_ops.library import get_library_path
from support.gpu.cuda import installed_library

NATIVE = Path(__file__).parents[2] / "custom_ops" / "native"
#: That of manylinux_2_28: RHEL 8, Debian 10, Ubuntu 20.04 and later.
OLDEST = (2, 28)

#: Takes each feature away in turn. gcc's own idea of the level is that of this machine's.
CHECK_LEVELS = """
#include <cstdio>
#include "x86_levels.h"
using namespace onnx_cbp;
int main() {
  const Cpuid all{~0u, ~0u, ~0u, true, true};
  const int ecx[] = {0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29}, ebx[] = {3, 5, 8}, extended[] = {0, 5};
  const int wide[] = {16, 17, 28, 30, 31};
  int wrong = LevelOf(all) != 4;
  for (const int bit : ecx) { Cpuid cpu = all; cpu.leaf_1_ecx ^= 1u << bit; wrong += LevelOf(cpu) != 1; }
  for (const int bit : ebx) { Cpuid cpu = all; cpu.leaf_7_ebx ^= 1u << bit; wrong += LevelOf(cpu) != 1; }
  for (const int bit : extended) { Cpuid cpu = all; cpu.extended_1_ecx ^= 1u << bit; wrong += LevelOf(cpu) != 1; }
  for (const int bit : wide) { Cpuid cpu = all; cpu.leaf_7_ebx ^= 1u << bit; wrong += LevelOf(cpu) != 3; }
  Cpuid cpu = all;
  cpu.keeps_avx512 = false;
  wrong += LevelOf(cpu) != 3;
  cpu.keeps_avx = false;
  wrong += LevelOf(cpu) != 1;
  std::printf("%d wrong", wrong);
}
"""


def _needs(tool):
    if platform.machine() != "x86_64":
        pytest.skip("this is about x86-64")
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool} here")


@pytest.mark.native
@pytest.mark.parametrize("which", ["processor", "GPU"])
def test_no_function_is_from_a_newer_glibc(which):
    _needs("objdump")
    library = get_library_path() if which == "processor" else installed_library()
    if library is None:
        pytest.skip("this installation has no CUDA kernels: there was no nvcc where it was built")
    listing = subprocess.run(["objdump", "-T", str(library)], capture_output=True, text=True, check=True).stdout
    wanted = {}
    for line in listing.splitlines():
        for version in re.findall(r"GLIBC_(\d+(?:\.\d+)+)", line):
            wanted.setdefault(tuple(map(int, version.split("."))), []).append(line.split()[-1])
    assert wanted
    assert {version: names for version, names in wanted.items() if version[:2] > OLDEST} == {}


@pytest.mark.native
def test_every_feature_of_a_level_is_asked_for(tmp_path):
    _needs("g++")
    (tmp_path / "check.cc").write_text(CHECK_LEVELS)
    program = tmp_path / "check"
    include = NATIVE / "kernels" / "processors"
    command = ["g++", "-std=c++17", f"-I{include}", str(tmp_path / "check.cc"), "-o", str(program)]
    subprocess.run(command, check=True)
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "0 wrong"
