"""The demo, for one epoch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_the_demo_trains_deploys_and_draws(tmp_path):
    for name in ("sklearn", "matplotlib"):
        pytest.importorskip(name, reason=f"the demo needs {name}: pip install '.[demo]'")
    curves, document = tmp_path / "curves.png", tmp_path / "results.json"
    command = [sys.executable, str(EXAMPLES / "digits.py"), "--epochs", "2", "--output", str(curves)]
    done = subprocess.run([*command, "--json", str(document)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(document.read_text())
    ours = results["trained"][0]
    assert ours["losses"][-1] < 0.5 * ours["losses"][0]
    assert results["deployed"] == ours["accuracy"] > 0.8
    assert curves.read_bytes().startswith(b"\x89PNG")
    for theirs in results["trained"][1:]:  # where PyTorch is, from the same weights
        assert abs(theirs["losses"][0] / ours["losses"][0] - 1) < 1e-5
