"""What SECURITY.md promises: a model is data. The sources name nothing that would run or fetch it."""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnx_cbp.cli import cli
from support.models import INFERENCE, parse

ROOT = Path(__file__).parents[2]
#: The package is put together of them.
SOURCES = [path for name in ("onnx_cbp", "custom_ops", "graph_passes") for path in (ROOT / name).rglob("*.py")]
#: What makes programs of data, or gets data from elsewhere.
MODULES = {
    *("pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "code", "runpy"),
    *(
        "urllib.request",
        "urllib3",
        "http",
        "requests",
        "httpx",
        "aiohttp",
        "socket",
        "ftplib",
        "ssl",
        "huggingface_hub",
    ),
    *("onnx.hub", "torch.hub", "pip", "ensurepip"),
}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
#: `torch.load`, `numpy.load(..., allow_pickle=True)`, mpi4py's lower-case methods and PyTorch's object collectives.
PICKLING_METHODS = {"loads", "all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list"}


def _forbidden(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if _is_forbidden(name.name)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            found += [name for name in names if _is_forbidden(name)][:1]
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                found.append(called.id)
            if isinstance(called, ast.Attribute):
                of = called.value.id if isinstance(called.value, ast.Name) else ""
                if (called.attr in PICKLING_METHODS and of != "json") or (of, called.attr) in (
                    ("torch", "load"),
                    ("os", "system"),
                    ("os", "popen"),
                ):
                    found.append(f"{of}.{called.attr}")
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell") and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    found.append(str(keyword.arg))
    return found


def _is_forbidden(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in MODULES)


def test_no_source_makes_programs_of_data_or_gets_data_from_elsewhere():
    found = {path.relative_to(ROOT).as_posix(): _forbidden(ast.parse(path.read_text("utf-8"))) for path in SOURCES}
    assert len(found) > 200
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from urllib import request",
        "import urllib.request as r",
        "from onnx import hub",
        "eval(text)",
        "numpy.load(file, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "torch.load(file)",
        "group.all_gather_object(a, b)",
    ],
)
def test_the_test_sees(line):
    assert _forbidden(ast.parse(line))


class _Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_array_is_refused_and_not_run(tmp_path):
    (tmp_path / "model.onnx").write_bytes(parse(INFERENCE).SerializeToString())
    header = b"\x93NUMPY\x01\x00" + (54).to_bytes(2, "little")
    header += b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", header + pickle.dumps(_Runs(tmp_path / "ran")))
    (tmp_path / "data.npz").write_bytes(buffer.getvalue())
    arguments = [str(tmp_path / name) for name in ("model.onnx", "data.npz", "out.onnx")]
    result = CliRunner().invoke(cli, ["update-bn", arguments[0], "--data", arguments[1], "-o", arguments[2]])
    assert result.exit_code == 2
    assert "data.npz" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.onnx").exists()
