"""What scripts write into docs is what they would write now, and every page has a place in the site."""

from __future__ import annotations

import importlib.util
import re

import pytest

from support.programs.documents import ROOT

DOCS = ROOT / "docs"


@pytest.mark.whole
@pytest.mark.parametrize(
    ("script", "function", "written"),
    [("ops_page", "page", "ops.md"), ("picture", "picture", "images/before_after.svg")],
)
def test_a_generated_file_is_current(script, function, written):
    spec = importlib.util.spec_from_file_location(script, DOCS / "tools" / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    now = getattr(module, function)()
    assert (DOCS / written).read_text(encoding="utf-8") == now, f"run python docs/tools/{script}.py"


def test_every_page_is_in_the_table_of_contents():
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^(?:[^<\n]*<)?([\w/]+)>?$", contents, re.MULTILINE))
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    assert pages <= listed, sorted(pages - listed)


def test_the_reasons_that_a_page_explains_are_those_that_inspect_gives():
    page = (DOCS / "questions" / "left_alone.md").read_text(encoding="utf-8")
    folders = (ROOT / "graph_passes", ROOT / "onnx_cbp")
    source = "".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("**/*.py"))
    joined = re.sub(r"\"\s*\n\s*f?\"", "", source)
    reasons = re.findall(r"^\| \"(.*)\" \| .* \|$", page, re.MULTILINE)
    assert len(reasons) >= 12
    for reason in reasons:
        for piece in re.split(r"'NAME'|\.\.\.", reason):
            words = piece.strip()
            assert words in joined or words.replace("scale", "{missing}") in joined, reason
