"""No folder that a reader has to search: more than 15 files get rooms named for what they do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 15
#: What is no source: what running and building leave behind.
_LEFT_BEHIND = (".pyc", ".so")


def _crowded(folder: Path, most: int = MOST) -> dict[str, int]:
    """The folders in a folder that have more files than `most`, but for those of C++."""
    count: Counter[Path] = Counter(
        file.parent
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in _LEFT_BEHIND and "native" not in file.relative_to(folder).parts
    )
    return {str(place.relative_to(folder)): files for place, files in count.items() if files > most}


@pytest.mark.parametrize("name", ["onnx_cbp", "custom_ops", "graph_passes", "tests/support"])
def test_no_folder_is_crowded(name):
    assert not _crowded(ROOT / name)


def test_a_crowded_folder_is_seen(tmp_path):
    (tmp_path / "room").mkdir()
    for number in range(MOST + 1):
        (tmp_path / "room" / f"{number}.py").touch()
        (tmp_path / f"{number}.so").touch()
    assert _crowded(tmp_path) == {"room": MOST + 1}
