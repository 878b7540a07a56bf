"""Shape sets: data files, from the package or from users."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from onnx_cbp.errors import OnnxCbpError

_FOLDER = Path(__file__).parent / "shapes"
_QUICK_BATCH = 8
_QUICK_LENGTH = 16


@dataclass(frozen=True)
class Shape:
    """A shape of X with a name; the channels are at `axis`."""

    name: str
    dimensions: tuple[int, ...]
    axis: int

    @property
    def elements(self) -> int:
        """The number of elements of X."""
        return math.prod(self.dimensions)

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.dimensions[self.axis]

    def quick(self) -> Shape:
        """A shape of the same rank and layout with almost no data."""
        short = (min(d, _QUICK_BATCH if i == 0 else _QUICK_LENGTH) for i, d in enumerate(self.dimensions))
        return Shape(self.name, tuple(short), self.axis)


@dataclass(frozen=True)
class ShapeSet:
    """Shapes for one table."""

    name: str
    description: str
    shapes: tuple[Shape, ...]


def shape_sets() -> list[str]:
    """Names of the sets that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_shapes(name: str) -> ShapeSet:
    """A set of the package by name, or the set in a JSON file by path.

    Raises:
        OnnxCbpError: there is no such set, or the file has none.
    """
    path = _FOLDER / f"{name}.json" if name in shape_sets() else Path(name)
    if path.suffix != ".json":
        raise OnnxCbpError(f"there is no shape set '{name}'; use {', '.join(shape_sets())}, or a .json file")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        shapes = tuple(
            Shape(str(entry["name"]), tuple(int(d) for d in entry["shape"]), int(entry.get("axis", 1)))
            for entry in document["shapes"]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OnnxCbpError(
            f"'{name}' is no shape set ({type(error).__name__}: {error}): it needs "
            '{"shapes": [{"name": ..., "shape": [...], "axis": 1}]}'
        ) from None
    if not shapes:
        raise OnnxCbpError(f"'{name}' has no shapes")
    for shape in shapes:
        rank = len(shape.dimensions)
        if rank < 2 or min(shape.dimensions) < 1 or not -rank <= shape.axis < rank:
            raise OnnxCbpError(
                f"'{name}': shape {list(shape.dimensions)} with axis {shape.axis} is none to measure: it needs "
                "rank 2 or more, dimensions of 1 or more and an axis within"
            )
    return ShapeSet(path.stem, str(document.get("description", "")), shapes)
