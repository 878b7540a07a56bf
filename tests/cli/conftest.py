"""What the tests of commands share: a command that is run in this process, and small models as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from onnx_cbp.cli import cli
from support.models import FORWARD, parse


@pytest.fixture
def run() -> Callable[..., Result]:
    """The command line in this process; stdout and stderr apart."""
    return lambda *arguments: CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture
def forward(tmp_path: Path) -> Path:
    """A model with one batch norm that trains."""
    path = tmp_path / "forward.onnx"
    onnx.save(parse(FORWARD), path)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A model without any."""
    path = tmp_path / "plain.onnx"
    onnx.save(
        parse("""
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }
        """),
        path,
    )
    return path
