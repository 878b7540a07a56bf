"""What `import onnx_cbp` alone gives, in a Python of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.programs.elsewhere import ELSEWHERE


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ELSEWHERE)


def test_modules_import_on_first_use():
    program = """
import sys, onnx_cbp
assert not {"numpy", "onnx", "onnx_ir", "onnxruntime", "click"} & set(sys.modules), "an import of it alone is quick"
listed = dir(onnx_cbp)
for name in ("bench", "checking", "cli", "custom_ops", "distributed", "errors", "graph_passes", "report", "training"):
    assert name in listed, name
    assert getattr(onnx_cbp, name).__name__ == f"onnx_cbp.{name}"
for name in ("bodies", "double_backward", "functions", "gradients", "library", "references", "schemas"):
    assert name in dir(onnx_cbp.custom_ops), name
    assert getattr(onnx_cbp.custom_ops, name).__name__ == f"onnx_cbp.custom_ops.{name}"
public = [name for name in listed if not name.startswith("__")]
assert set(public) >= {"finalize", "inspect", "register", "rewrite", "update_bn"}
assert not {"annotations", "find_spec", "import_module", "TYPE_CHECKING", "Any", "on_first_use"} & set(public), public
assert not [name for name in public if name.startswith("_")], public
assert all(hasattr(onnx_cbp, name) for name in listed)
from importlib import metadata
assert onnx_cbp.__version__ == metadata.version("onnx-cbp")
"""
    result = _python("-c", program)
    assert result.returncode == 0, result.stderr


def test_no_module_warns_or_needs_pytorch_or_the_training_build():
    program = """
import importlib, pkgutil, sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what others warn of
    import onnx, onnx_ir, onnx_ir.passes.common, onnxruntime, rich.progress, safetensors
missing = ("torch", "mpi4py", "onnxruntime.training")
before = {name for name in sys.modules if name.startswith(missing)}  # the training build's onnxruntime imports its own
warnings.simplefilter("error")
import onnx_cbp
count = 0
for module in pkgutil.walk_packages(onnx_cbp.__path__, "onnx_cbp.", onerror=lambda name: None):
    last = module.name.rpartition(".")[2]
    if last != "__main__" and not last.startswith("lib"):  # the native libraries are no modules
        importlib.import_module(module.name)
        count += 1
assert count > 100, count
found = {name for name in sys.modules if name.startswith(missing)} - before
assert not found, found
"""
    result = _python("-c", program)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", ["onnx_cbp", "onnx_cbp.custom_ops"])
def test_what_is_not_there_is_said(package):
    result = _python("-c", f"import {package}\n{package}.nothing")
    assert result.stderr.splitlines()[-1] == f"AttributeError: module '{package}' has no attribute 'nothing'"


def test_the_command_line_as_a_module():
    results = [_python("-m", module, "--version") for module in ("onnx_cbp", "onnx_cbp.cli")]
    assert [result.returncode for result in results] == [0, 0]
    assert results[0].stdout == results[1].stdout
    assert results[0].stdout.startswith("onnx-cbp ")
