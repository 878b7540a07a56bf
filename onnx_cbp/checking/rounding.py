"""Measures how much rounding alone moves the results of a model.

A gradient is not a smooth function of the inputs: where an activation lies within rounding of zero, a ReLU lets the
gradient pass in one model and not in the other, both being right. In a deep network some always do, and one of them
moves a gradient by a thousandth of its largest value or more. So before two models are said to differ, the original
is held against itself, with inputs that are a few units in the last place off.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_cbp.checking.feeding.roles import Kind, Role

#: Runs of the original with inputs slightly off, and by how many units in the last place they are. More units than
#: the rewriting itself costs, so that a rare jump that the rewritten model met is met here as well.
RUNS = 8
_UNITS = 16
_PERTURBED = (Kind.DATA, Kind.WEIGHT, Kind.SCALE)


def slightly_off(
    feeds: Mapping[str, np.ndarray], roles: Mapping[str, Role], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """The inputs with every number moved up or down in its last places."""
    return {
        name: _moved(array, generator) if array.dtype.kind == "f" and roles[name].kind in _PERTURBED else array
        for name, array in feeds.items()
    }


def _moved(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    # The short types have no last places to spare.
    units = 1 if array.dtype == np.float16 else _UNITS
    signs = generator.choice([-1.0, 1.0], array.shape)
    step = units * float(np.finfo(array.dtype).eps)
    return np.asarray(array * (1 + step * signs)).astype(array.dtype)
