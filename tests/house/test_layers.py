"""Who may know whom: the drawing in docs/architecture.md, as a table that the imports are held against."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "custom_ops" / "native"
#: The folder of each package, as pyproject.toml maps them.
PACKAGES = {
    "onnx_cbp.custom_ops": ROOT / "custom_ops",
    "onnx_cbp.graph_passes": ROOT / "graph_passes",
    "onnx_cbp": ROOT / "onnx_cbp",
}
#: What stands below everything: one line for an error, and imports on first use.
GROUND = {"errors", "lazy"}
#: Rooms of the passes, and those below each.
PASSES = {
    "core": set(),
    "dialects": {"core"},
    "analysis": {"core", "dialects"},
    "differentiating": {"core", "dialects"},
    "stepping": {"core", "dialects", "analysis", "differentiating"},
    "distributing": {"core", "dialects", "stepping"},
    "rewriting": {"core", "dialects", "analysis", "distributing"},
    "updating": {"core", "dialects", "analysis"},
    "finalizing": {"core", "dialects", "analysis", "rewriting", "stepping"},
    "preparing": {"core", "dialects", "analysis", "rewriting"},
}
#: What of the front door the ops and the passes may import.
OF_THE_DOOR = {"custom_ops": {*GROUND, "distributed"}, "graph_passes": GROUND}
#: Op types that belong to a dialect of a training build; everything else is told by sites.
WORDS_OF_DIALECTS = re.compile(r'"(BatchNormInternal|BatchNormalizationGrad|ReluGrad|BatchNormActivation)"')
#: Besides the dialects: what writes them, and what finalize takes out of a model of that builder.
MAY_NAME_THEM = {"dialects", "differentiating", "stepping"}


def _modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder)
            if package == "onnx_cbp" and inside.parts[0] in ("custom_ops", "graph_passes"):
                continue  # there where the packages are linked together
            name = ".".join((package, *inside.with_suffix("").parts)).removesuffix(".__init__")
            found[name] = file
    return found


MODULES = _modules()


def _imports(file: Path) -> Iterator[str]:
    """Modules of this project that a file imports, wherever in it; what only a type checker reads is none."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "onnx_cbp")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "onnx_cbp":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def _place(module: str) -> tuple[str, str]:
    """(package, room) of a module; the room of a file that lies in none is its name."""
    for package in ("custom_ops", "graph_passes"):
        start = f"onnx_cbp.{package}"
        if module == start or module.startswith(f"{start}."):
            return package, module.removeprefix(start).lstrip(".").split(".")[0]
    return "door", module.removeprefix("onnx_cbp").lstrip(".").split(".")[0]


def _fault(module: str, imported: str) -> str | None:
    """Why a module may not import another; None if it may."""
    package, room = _place(module)
    of, its_room = _place(imported)
    if package == "custom_ops" and of == "graph_passes":
        return "ops know no passes"
    if package != "door" and of == "door" and its_room not in OF_THE_DOOR[package]:
        return "what stands below the front door does not know it"
    if package == of == "graph_passes" and room not in ("", its_room) and its_room not in PASSES[room]:
        return f"'{room}' stands on {sorted(PASSES[room])}"
    if package == of == "door" and room in GROUND and its_room not in GROUND:
        return "it is what all others stand on"
    if of == "door" and its_room == "cli" and room not in ("cli", "__main__"):
        return "nothing knows the command line"
    return None


def test_a_module_knows_only_what_stands_below_it():
    faults = [
        f"{module} imports {imported}: {fault}"
        for module, file in MODULES.items()
        for imported in _imports(file)
        if (fault := _fault(module, imported))
    ]
    assert not faults


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("onnx_cbp.custom_ops.schemas", "onnx_cbp.graph_passes"),
        ("onnx_cbp.graph_passes.core.sites", "onnx_cbp.graph_passes.dialects.primitive_arithmetic"),
        ("onnx_cbp.graph_passes.dialects.ort_training", "onnx_cbp.rewriting"),
        ("onnx_cbp.errors", "onnx_cbp.model_files.model_io"),
        ("onnx_cbp.checking.graphs", "onnx_cbp.cli.text"),
    ],
)
def test_a_wrong_way_is_seen(module, imported):
    assert _fault(module, imported)


def test_every_room_of_the_passes_has_its_place():
    rooms = {_place(module)[1] for module in MODULES if _place(module)[0] == "graph_passes"}
    assert rooms - {""} == set(PASSES)


def test_a_pass_knows_no_names_of_a_dialect():
    others = [m for m in MODULES if _place(m)[0] == "graph_passes" and _place(m)[1] not in MAY_NAME_THEM]
    assert not [m for m in others if WORDS_OF_DIALECTS.search(MODULES[m].read_text(encoding="utf-8"))]
    assert WORDS_OF_DIALECTS.search((PACKAGES["onnx_cbp.graph_passes"] / "dialects" / "ort_training.py").read_text())


def test_a_module_says_first_what_it_is_for():
    says = {m: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for m, file in MODULES.items()}
    assert not [m for m, text in says.items() if not text.partition("\n")[0].rstrip().endswith((".", ":", "?"))]


def test_kernels_know_no_onnx_runtime():
    faults = []
    for file in sorted(NATIVE.rglob("*.[hc]*")):
        place = file.relative_to(NATIVE)
        if place.parts[0] == "ort":
            continue
        included = re.findall(r'^#include ["<]([^">]+)', file.read_text(encoding="utf-8"), re.MULTILINE)
        above = ("c_api", "collectives") if place.parts[0] == "kernels" else ()
        faults += [
            f"{place} includes {name}"
            for name in included
            if any(part in name for part in ("onnxruntime", "ort/", *(f"../{other}" for other in above)))
        ]
    assert not faults
