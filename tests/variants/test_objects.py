"""What is compiled for one target cannot be linked into another."""

from __future__ import annotations

import re
import subprocess

import pytest

from support.programs.variants import FLAGS, folder

#: Not code: where an object has one, it holds the address of the C++ runtime's function.
SHARED_DATA = {"DW.ref.__gxx_personality_v0"}


@pytest.mark.parametrize("target", FLAGS)
def test_objects_of_a_target_define_nothing_outside_its_namespace(target):
    """The linker keeps one definition of an inline function or a template, whoever made it.

    One that was compiled for avx512 may so be what all targets call, and end the process elsewhere. This build is not
    optimised, so every function that is not always inlined is there to be seen.
    """
    objects = sorted((folder("sanitized") / "CMakeFiles" / f"onnx_cbp_{target}.dir").rglob("*.o"))
    defined = set()
    for path in objects:
        listing = subprocess.run(
            ["nm", "--defined-only", "--extern-only", "--format=posix", path],
            capture_output=True,
            text=True,
            check=True,
        )
        defined |= {line.split()[0] for line in listing.stdout.splitlines()}
    own = re.compile(rf"_ZZ?N8onnx_cbp{len(target)}{target}\d")
    assert any(own.match(name) for name in defined)
    assert {name for name in defined - SHARED_DATA if not own.match(name)} == set()
