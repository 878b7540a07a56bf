"""What a release says of itself: one version, in one place."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from onnx_cbp import __version__
from onnx_cbp.custom_ops.library import load_library

ROOT = Path(__file__).parents[2]


def _version() -> str:
    (version,) = re.findall(r'(?m)^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text("utf-8"))
    return str(version)


def test_the_newest_change_is_of_this_version():
    headings = re.findall(r"(?m)^## (\S+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert headings[0] == _version()


def test_the_package_knows_the_version_it_was_installed_with():
    if __version__.startswith("unknown"):
        pytest.skip("the package is not installed: PYTHONPATH names a checkout")
    assert __version__ == _version()


def test_the_version_stands_in_pyproject_alone():
    named = [
        path.relative_to(ROOT).as_posix()
        for folder in ("onnx_cbp", "custom_ops", "graph_passes", "cmake")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".cc", ".h", ".cu", ".cmake", ".toml", ".txt")
        and _version() in path.read_text("utf-8")
    ]
    assert named == []
    assert "version:" not in (ROOT / "CITATION.cff").read_text("utf-8").replace("cff-version:", "")


@pytest.mark.native
def test_the_library_knows_the_version_it_was_built_for():
    import ctypes

    library = load_library()
    assert library is not None
    library.onnx_cbp_version.restype = ctypes.c_char_p
    assert library.onnx_cbp_version().decode() in (_version(), "unknown")


def test_an_installed_wheel_has_what_runs_and_no_source_of_the_library():
    try:
        names = {file.as_posix() for file in metadata.files("onnx-cbp") or []}
    except metadata.PackageNotFoundError:
        names = set()
    if "onnx_cbp/rewriting.py" not in names:
        pytest.skip("this is no installed wheel: an editable installation, or a checkout that PYTHONPATH names")
    assert {"onnx_cbp/py.typed", "onnx_cbp/custom_ops/schemas.py", "onnx_cbp/graph_passes/analysis.py"} <= names
    assert [name for name in names if name.endswith((".cc", ".h", ".cu", ".cmake", ".toml")) or "cuda.so" in name] == []
    tag = metadata.distribution("onnx-cbp").read_text("WHEEL") or ""
    assert re.search(r"(?m)^Tag: py3-none-(linux|manylinux|any)", tag), tag
