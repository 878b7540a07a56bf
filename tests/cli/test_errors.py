"""Bad input gives one line on stderr and status 2, whatever the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

import onnx_cbp

COMMANDS = [
    ("inspect", "{bad}"),
    ("rewrite", "{bad}", "-o", "{out}"),
    ("check", "{bad}", "{good}"),
    ("check", "{good}", "{bad}"),
]


def _bad_file(kind, forward, tmp_path):
    path = tmp_path / "bad.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("this is not a model\n")
    elif kind == "truncated":
        path.write_bytes(forward.read_bytes()[:-20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "zeros":
        path.write_bytes(bytes(1000))
    elif kind == "under a file":
        return forward / "bad.onnx"
    elif kind == "too long":
        return tmp_path / ("x" * 300)
    return path


KINDS = {
    "missing": "does not exist",
    "folder": "is a folder",
    "text": "is not an ONNX model",
    "truncated": "is not an ONNX model",
    "empty": "is not an ONNX model",
    "zeros": "is not an ONNX model",
    "under a file": "Not a directory",
    "too long": "File name too long",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_bad_files(run, forward, tmp_path, command, kind):
    bad = _bad_file(kind, forward, tmp_path)
    out = tmp_path / "out.onnx"
    before = sorted(p.name for p in tmp_path.iterdir())
    result = run(*(word.format(bad=bad, good=forward, out=out) for word in command))
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("onnx-cbp: ")
    assert str(bad) in line
    assert KINDS[kind] in line
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_permission(run, forward, tmp_path, command):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(forward.read_bytes())
    bad.chmod(0)
    if os.access(bad, os.R_OK):
        pytest.skip("this user may read everything")
    result = run(*(word.format(bad=bad, good=forward, out=tmp_path / "out.onnx") for word in command))
    assert result.exit_code == 2
    assert result.stderr == f"onnx-cbp: '{bad}' cannot be read: Permission denied\n"


def test_no_permission_for_anyone(run, forward, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(onnx, "load", refuse)
    result = run("inspect", forward)
    assert (result.exit_code, result.stderr) == (
        2,
        f"onnx-cbp: '{forward}' cannot be read: Permission denied\n",
    )


def test_output_folder_missing(run, forward, tmp_path):
    result = run("rewrite", forward, "-o", tmp_path / "nowhere" / "out.onnx")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_output_is_a_folder(run, forward, tmp_path):
    result = run("rewrite", forward, "-o", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"onnx-cbp: '{tmp_path}' is a folder: name the .onnx file to write\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect"],
        ["rewrite", "{good}"],
        ["check", "{good}"],
        ["check", "{good}", "{good}", "--batch", "0"],
        ["check", "{good}", "{good}", "--batch", "many"],
        ["check", "{good}", "{good}", "--seed", "-1"],
        ["check", "{good}", "{good}", "--rtol", "-1"],
        ["check", "{good}", "{good}", "--rtol", "nan"],
        ["inspect", "{good}", "--unknown"],
        ["unknown"],
    ],
    ids=" ".join,
)
def test_wrong_usage(run, forward, arguments):
    result = run(*(word.format(good=forward) for word in arguments))
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unexpected_error_is_one_line_too(run, forward, monkeypatch):
    def fail(model):
        raise RuntimeError("a\nb")

    monkeypatch.setattr(onnx_cbp, "inspect", fail)
    result = run("inspect", forward)
    assert result.exit_code == 2
    assert result.stderr.startswith("onnx-cbp: unexpected RuntimeError: a b")
    assert len(result.stderr.splitlines()) == 1


def test_version_and_help(run):
    assert run("--version").stdout.startswith("onnx-cbp ")
    for command in ((), ("inspect",), ("rewrite",), ("check",)):
        assert run(*command, "--help").exit_code == 0


def test_what_needs_no_model_imports_nothing_slow():
    code = "import sys, onnx_cbp.cli; print([name for name in ('numpy', 'onnx', 'onnx_ir') if name in sys.modules])"
    flags = ["-P"] if sys.version_info >= (3, 11) else ["-I"]
    result = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_every_public_name_is_there():
    assert set(onnx_cbp.__all__) <= set(dir(onnx_cbp))
    named = set(onnx_cbp.__all__) - {"__version__"}
    assert all(getattr(onnx_cbp, name).__name__ == name for name in named)
    with pytest.raises(AttributeError, match="module 'onnx_cbp' has no attribute 'rewrit'"):
        onnx_cbp.rewrit  # noqa: B018


def _process(*arguments, **options):
    # -P: the sources in the current folder must not hide the installed package.
    command = [sys.executable, "-P", "-m", "onnx_cbp.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P is new in Python 3.11")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing_behind(forward, tmp_path, sent, status):
    fifo = tmp_path / "fifo.onnx"
    os.mkfifo(fifo)
    # A shell makes what it starts in the background deaf to SIGINT, and that is inherited.
    before = signal.signal(sent, signal.SIG_DFL)
    try:
        process = _process("rewrite", fifo, "-o", tmp_path / "out.onnx")
    finally:
        signal.signal(sent, before)
    with fifo.open("wb"):  # returns once the process waits for the model
        time.sleep(0.1)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in stderr
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P is new in Python 3.11")
def test_a_reader_that_goes_away(forward):
    process = _process("inspect", forward)
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=60)
    assert stderr == ""
    assert process.returncode == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P is new in Python 3.11")
def test_stdout_that_is_full(forward):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-P", "-m", "onnx_cbp.cli", "inspect", str(forward)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "onnx-cbp: No space left on device\n"
