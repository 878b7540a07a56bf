"""The script of `make gpu-check`, as far as it goes without a GPU."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.gpu.cuda import why_no_gpu

FOLDER = Path(__file__).parent


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import check

    return check


def test_without_a_gpu_it_ends_with_2_and_one_line():
    if why_no_gpu() is None:
        pytest.skip("there is a GPU here")
    done = subprocess.run([sys.executable, FOLDER / "check.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be checked here" in done.stderr


@pytest.mark.parametrize("failing", [None, "Measure", "compute-sanitizer, racecheck"])
def test_a_step_that_fails_fails_the_check(check, monkeypatch, failing, capfd, tmp_path):
    ran = []

    def run(step):
        ran.append(step.title)
        return step.title != failing

    monkeypatch.setattr(check, "why_not", lambda: None)
    monkeypatch.setattr(check, "install", lambda: True)
    monkeypatch.setattr(check.shutil, "which", lambda name, path=None: f"/somewhere/{name}")
    monkeypatch.setattr(check.Step, "run", run)
    assert check.main(["--json", str(tmp_path / "rows.json")]) == (0 if failing is None else 1)
    assert len(ran) == 2 + len(check.SANITIZER_TOOLS)
    assert ("every result is right" if failing is None else f"failed: {failing}") in capfd.readouterr().out


def test_a_step_is_its_command(check):
    assert check.Step("right", [sys.executable, "-c", "import support"]).run()
    assert not check.Step("wrong", [sys.executable, "-c", "raise SystemExit(3)"]).run()


def test_the_environment_sees_this_pytorch(check, tmp_path):
    if not find_spec("torch"):
        pytest.skip("PyTorch is not installed here")
    check.make_environment(tmp_path)
    look = [tmp_path / "bin" / "python", "-c", "import torch; print(torch.__file__)"]
    seen = subprocess.run(look, capture_output=True, text=True, check=True).stdout.strip()
    assert seen == find_spec("torch").origin
