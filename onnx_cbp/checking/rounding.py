"""Measures how much rounding alone moves the results of a model.

A gradient is not a smooth function of the inputs. If an activation is within rounding of zero, a ReLU may let the
gradient pass in one model and not in the other, and both are right. In a deep network this always happens somewhere,
and a single case changes a gradient by a thousandth of its largest value or more. So before two models are called
different, the original is compared with itself, on inputs that are off by a few units in the last place.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_cbp.checking.feeding.roles import Kind, Role

#: How often the original runs with slightly different inputs, and by how many units in the last place these differ. The
#: rewriting itself costs fewer units, so a rare jump in the rewritten model shows up here too.
RUNS = 8
_UNITS = 16
_PERTURBED = (Kind.DATA, Kind.WEIGHT, Kind.SCALE)


def slightly_off(
    feeds: Mapping[str, np.ndarray], roles: Mapping[str, Role], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """The inputs, with every number moved up or down in its last places."""
    return {
        name: _moved(array, generator) if array.dtype.kind == "f" and roles[name].kind in _PERTURBED else array
        for name, array in feeds.items()
    }


def _moved(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    # 16-bit types have no places to spare.
    units = 1 if array.dtype == np.float16 else _UNITS
    signs = generator.choice([-1.0, 1.0], array.shape)
    step = units * float(np.finfo(array.dtype).eps)
    return np.asarray(array * (1 + step * signs)).astype(array.dtype)
