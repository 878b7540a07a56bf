"""Named arrays in a file that Python and JavaScript read: JSON, with the bytes in base 64."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def write_arrays(path: Path, inputs: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> None:
    """Write inputs and results."""
    document = {"inputs": _encoded(inputs), "results": _encoded(results)}
    path.write_text(json.dumps(document))


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(inputs, results)."""
    document = json.loads(path.read_text())
    return _decoded(document["inputs"]), _decoded(document["results"])


def _encoded(arrays: Mapping[str, np.ndarray]) -> dict[str, dict]:
    return {
        name: {"type": str(a.dtype), "dims": list(a.shape), "data": base64.b64encode(a.tobytes()).decode()}
        for name, a in arrays.items()
    }


def _decoded(entries: Mapping[str, dict]) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(base64.b64decode(e["data"]), e["type"]).reshape(e["dims"]) for name, e in entries.items()
    }
