"""ONNX Runtime's training modules where PyTorch is not installed, as the README says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.programs.elsewhere import ELSEWHERE

pytestmark = pytest.mark.training

WITHOUT = "import sys; sys.modules['torch'] = None\n"


def _python(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + program]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ELSEWHERE)


def test_its_own_import_fails():
    assert "torch" in _python("import onnxruntime.training.api").stderr.splitlines()[-1]


def test_ours_does_not():
    program = """
import onnx_cbp.training
api, artifacts = onnx_cbp.training.load_api(), onnx_cbp.training.load_artifacts()
print(api.Module.__name__, api.CheckpointState.__name__, artifacts.LossType.CrossEntropyLoss.name)
"""
    result = _python(program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["Module", "CheckpointState", "CrossEntropyLoss"]
