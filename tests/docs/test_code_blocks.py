"""Every code block of README and docs runs, in a folder with the files that it names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnx_cbp
from onnx_cbp.cli import cli
from support.made_up.finetuning import network, parameters
from support.models import INFERENCE, parse
from support.programs.documents import DOCUMENTS, ROOT, Block, blocks, inline_code, unfenced_code
from support.training import MODELS

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
SHELL = ("shell", "sh", "bash", "console")
#: What "needs" may name: markers of tests, which say in conftest.py whether it is here.
NEEDS = ("training", "native", "mpi", "torch")
#: What a training program is, for those who start one: each replica tells how many there are.
TRAIN = """
import onnxruntime
import onnx_cbp

onnx_cbp.register(onnxruntime.SessionOptions())
print("replica of", onnx_cbp.distributed.world_size())
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder: training artifacts by the names that ONNX Runtime gives them, and the names that commands use."""
    folder = tmp_path_factory.mktemp("documents")
    sample = MODELS / "conv1d_signals"
    for path in sample.iterdir():
        shutil.copy(path, folder / path.name)
    for name, source in (("MODEL", "training_model.onnx"), ("CHECKPOINT", "checkpoint")):
        shutil.copy(sample / source, folder / name)
    onnx.save(parse(INFERENCE.replace("3, H, W]", "3, L]")), folder / "model.onnx")
    onnx.save(network(parameters(0), ()), folder / "forward.onnx")
    shutil.copy(MODELS / "exporters" / "networks" / "keras_training_image.onnx", folder / "keras.onnx")
    rng = np.random.default_rng(0)
    np.savez(folder / "FILE.npz", x=rng.normal(size=(8, 3, 37)).astype(np.float32))
    (folder / "train.py").write_text(TRAIN)
    return folder


@pytest.mark.whole
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, marks=[getattr(pytest.mark, name) for name in block.needs], id=str(block))
        for block in BLOCKS
        if block.language in ("python", *SHELL)
    ],
)
def test_it_runs(block: Block, files: Path, tmp_path: Path):
    if block.not_run:
        pytest.skip(block.not_run)
    folder = tmp_path / "folder"
    shutil.copytree(files, folder)
    code = f"{block.given}\n{block.code}"
    command = [sys.executable, "-c", code] if block.language == "python" else ["bash", "-e", "-c", code]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{block}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.whole
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=str)
def test_it_is_json(block: Block):
    json.loads(block.code)


@pytest.mark.whole
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_all_code_is_fenced(document: Path):
    """Else nothing would run it."""
    assert list(unfenced_code(document)) == []
    for block in blocks(document):
        assert block.language in ("python", "json", "text", *SHELL), f"{block}: name the language of the block"
        assert set(block.needs) <= set(NEEDS), f"{block}: 'needs' names what no test knows"


@pytest.mark.whole
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_there(document: Path):
    """Names of the package that a text mentions, by `import onnx_cbp` alone."""
    for line, code in inline_code(document):
        for name in re.findall(r"\bonnx_cbp(?:\.\w+)+", code):
            found: object = onnx_cbp
            for part in name.split(".")[1:]:
                found = getattr(found, part, None) or _module(found, part)
                assert found is not None, f"{document.name}:{line}: there is no {name}"


def _module(package: object, name: str) -> object | None:
    inside = getattr(package, "__name__", "")
    return import_module(f"{inside}.{name}") if find_spec(f"{inside}.{name}") else None


@pytest.mark.whole
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_options_are_there(document: Path):
    context = click.Context(cli)
    for line, code in inline_code(document):
        words = code.split()
        if words[:1] != ["onnx-cbp"] or len(words) < 2 or words[1].startswith("-"):
            continue
        command = cli.get_command(context, words[1])
        assert command is not None, f"{document.name}:{line}: there is no command {words[1]}"
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[2:]:
            option = word.strip("[]").split("=")[0]
            if option.startswith("-") and option.strip("-"):
                assert option in options, f"{document.name}:{line}: {words[1]} has no option {option}"


@pytest.mark.training
@pytest.mark.native
def test_the_sample_table_of_check_is_what_it_prints(tmp_path):
    """The same rows and columns; differences that rounding makes are of the same size."""
    (shown,) = [block.code for block in BLOCKS if "fusion on" in block.code]
    original = MODELS / "resnet_digits" / "training_model.onnx"
    rewritten = onnx_cbp.rewrite(original)
    onnx.save(rewritten, tmp_path / "out.onnx")
    printed = CliRunner().invoke(cli, ["check", str(original), str(tmp_path / "out.onnx")]).stdout.splitlines()
    first = next(index for index, line in enumerate(printed) if line.split()[:2] == ["fusion", "on"])
    table = [line.split() for line in printed[first:] if line.strip() and not set(line.strip()) <= set("─")]
    wanted = [line.split() for line in shown.splitlines()]
    for want, got in zip(wanted, table[: len(wanted)], strict=True):
        assert len(got) == len(want)
        for one, other in zip(want, got, strict=True):
            number = re.fullmatch(r"\d\.\d\de-\d\d", one)
            assert (0.1 <= float(other) / float(one) <= 10) if number else other == one, (want, got)


# The reader itself.


def test_comments_above_a_block_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("support.programs.documents.ROOT", tmp_path)
    text = """
Text with `code`.

<!-- needs: mpi, torch -->
<!-- given: x = 1
y = 2 -->

```python
assert x + y == 3
```

<!-- not run: it never ends -->
```shell
sleep infinity
```
<!-- another comment -->
```text
    onnx-cbp inspect MODEL
```

    onnx-cbp inspect MODEL

    a = b + c
"""
    path = tmp_path / "page.md"
    path.write_text(text)
    first, second, third = blocks(path)
    assert (first.language, first.given, first.needs, first.not_run) == ("python", "x = 1\ny = 2", ("mpi", "torch"), "")
    assert first.code == "assert x + y == 3\n"
    assert (str(first), second.not_run, second.given) == ("page.md:8", "it never ends", "")
    assert (third.language, third.not_run) == ("text", "")
    assert [line for line, _ in unfenced_code(path)] == [21]
    assert [code for _, code in inline_code(path)] == ["code"]
