"""What every command keeps: exit statuses, colours, progress, completion (docs/usage.md)."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import onnx_cbp
from onnx_cbp.cli import cli
from support.models import INFERENCE, parse
from support.programs.elsewhere import ELSEWHERE
from support.training import MODELS

ROOT = Path(__file__).parents[2]
SAMPLE = MODELS / "conv1d_signals"


def _on_a_terminal(*arguments, **environment):
    """Exit status and everything that a terminal of 80 columns gets."""
    keeper, terminal = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_cbp", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        cwd=ELSEWHERE,
        env={**clean, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )
    os.close(terminal)
    read = b""
    while True:
        if not select.select([keeper], [], [], 60)[0]:
            process.kill()
            break
        try:
            part = os.read(keeper, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        read += part
    os.close(keeper)
    return process.wait(), read.decode()


def test_exit_statuses_are_those_of_the_table(run, tmp_path):
    table = re.findall(r"(?m)^\| ([\d, ]+) \|", (ROOT / "docs" / "usage.md").read_text("utf-8"))
    assert [number for row in table for number in row.split(", ")] == ["0", "1", "2", "130", "143"]
    model, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    onnx.save(parse(INFERENCE), model)
    assert run("check", model, model).exit_code == 0
    changed = parse(INFERENCE)
    node = next(node for node in changed.graph.node if node.op_type == "BatchNormalization")
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("epsilon", 0.5))
    onnx.save(changed, other)
    assert run("check", model, other).exit_code == 1
    assert run("check", model, tmp_path / "missing.onnx").exit_code == 2
    assert run("nothing").exit_code == 2


def test_help_names_the_statuses(run):
    assert "0 success, 1 a check that failed, 2 bad input, 130 interrupted" in run("--help").stdout


def test_colours_on_a_terminal_and_none_with_no_color():
    model = SAMPLE / "eval_model.onnx"
    status, coloured = _on_a_terminal("inspect", model)
    assert status == 0
    assert "\x1b[33m" in coloured  # yellow: left alone
    status, plain = _on_a_terminal("inspect", model, NO_COLOR="1")
    assert status == 0
    assert not re.search(r"\x1b\[[\d;]*3\d[\d;]*m", plain)


def test_a_table_is_no_wider_than_the_terminal():
    _, text = _on_a_terminal("inspect", "--verbose", MODELS / "resnet_digits" / "training_model.onnx", NO_COLOR="1")
    rows = [line for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).splitlines() if "[N," in line]
    assert len(rows) == 15
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (
            ("finalize", SAMPLE / "training_model.onnx", "--checkpoint", SAMPLE / "checkpoint"),
            ("finalizing", "writing"),
        ),
        (("rewrite", SAMPLE / "training_model.onnx"), ("rewriting", "writing")),
    ],
    ids=["finalize", "rewrite"],
)
def test_progress_on_a_terminal_alone(run, tmp_path, arguments, steps):
    out = tmp_path / "out.onnx"
    status, text = _on_a_terminal(*arguments, "-o", out)
    assert status == 0, text
    assert any(step in text for step in steps)
    result = run(*arguments, "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")


def test_bench_tells_lines_where_there_is_no_terminal(capsys, monkeypatch):
    from onnx_cbp.cli import measuring

    now = iter([0.0, 1.0, 11.0, 11.0, 12.0])
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(now))
    with measuring.progress("steps", 4) as done:
        for _ in range(4):
            done()
    assert capsys.readouterr().err.splitlines() == ["measuring steps: 2 of 4"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    command = [sys.executable, "-m", "onnx_cbp"]
    clicks = {**os.environ, "_ONNX_CBP_COMPLETE": f"{shell}_source"}
    code = "import sys; sys.argv = ['onnx-cbp']; from onnx_cbp.cli import main; main()"
    if shell != "bash":  # click asks bash for its version
        done = subprocess.run([command[0], "-c", code], env=clicks, cwd=ELSEWHERE, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "_ONNX_CBP_COMPLETE" in done.stdout
    words = {"COMP_WORDS": "onnx-cbp ins", "COMP_CWORD": "1", "_ONNX_CBP_COMPLETE": f"{shell}_complete"}
    done = subprocess.run(
        [command[0], "-c", code],
        env={**os.environ, **words, "ZDOTDIR": "", "COMP_CWORD": "ins" if shell == "fish" else "1"},
        cwd=ELSEWHERE,
        capture_output=True,
        text=True,
    )
    assert "inspect" in done.stdout, done.stderr


def test_json_goes_to_a_file_or_to_the_screen(run, tmp_path):
    model = SAMPLE / "training_model.onnx"
    printed = json.loads(run("inspect", "--json", model).stdout)
    result = run("inspect", model, f"--json={tmp_path / 'out.json'}")
    assert "14 batch norm nodes" in result.stdout
    assert json.loads((tmp_path / "out.json").read_text()) == printed


def test_output_means_what_is_written():
    for command in cli.commands.values():
        for parameter in command.params:
            if "-o" in parameter.opts or "--output" in parameter.opts:
                assert set(parameter.opts) == {"-o", "--output"}, command.name


def test_pytorchs_name_for_synchronize():
    model = SAMPLE / "training_model.onnx"
    assert onnx_cbp.convert_sync_batchnorm(model) == onnx_cbp.rewrite(model, synchronize=True)
    assert onnx_cbp.convert_sync_batchnorm(model, "size:2") == onnx_cbp.rewrite(model, synchronize="size:2")


def test_the_hooks_have_the_versions_of_lint():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    lint = (ROOT / "noxfile.py").read_text("utf-8")
    found = re.findall(r'"((?:ruff|clang-format)==[\d.]+)"', hooks)
    assert len(found) == 3
    assert all(f'"{requirement}"' in lint for requirement in found)
