"""Measures how far apart two arrays are, and judges whether that is too far."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

#: A difference is divided by the result's largest value, but at least by this part of the largest value of its kind. A
#: gradient that is zero in exact arithmetic (that of a bias before a batch norm) is only rounding error, and has no
#: scale of its own.
FLOOR = 0.01

_NOISE_MARGIN = 3

_TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Difference:
    """One result of two models, compared.

    Attributes:
        name: the graph output, or the input that the models write in place.
        kind: "loss" (a graph output of one number), "output", "gradient" or "running statistic".
        dtype: its type in the original.
        shape: its shape in the original.
        largest: the largest magnitude in the original.
        absolute: the largest absolute difference.
        relative: `absolute` divided by `largest`; if the result is much smaller than others of its kind, divided by 1%
            of the largest of them (a loss is judged alone). For what must be equal (integers, flags): 0 or infinity.
        noise: the relative difference between the original and itself on inputs that are off by a few units in the last
            place: the maximum over results of this kind. Measured only if some result is not within its tolerance.
        inputs: the set of inputs with the largest difference (see `input_sets`).
        problem: why the two cannot be compared, in one clause; None if they can.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    largest: float
    absolute: float
    relative: float
    problem: str | None = None
    noise: float = 0.0
    inputs: str = ""

    def tolerance(self, rtol: float | None = None) -> float:
        """The relative difference allowed: `rtol`; or else the larger of the type's tolerance and 3 times the noise."""
        if rtol is not None:
            return rtol
        return max(default_tolerance(self.dtype), _NOISE_MARGIN * self.noise)

    def within(self, rtol: float | None = None) -> bool:
        """Whether the results agree."""
        return self.problem is None and self.relative <= self.tolerance(rtol)

    def as_dict(self) -> dict[str, Any]:
        """The difference as JSON-ready values; numbers that are not finite are None."""
        values = asdict(self) | {"shape": list(self.shape)}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }


def default_tolerance(dtype: str) -> float:
    """How much results of a type may differ, relatively: 1e-9 for double, 1e-4 for float, more for the short types."""
    return _TOLERANCES.get(dtype, 0.0)


def incomparable(name: str, kind: str, problem: str) -> Difference:
    """A result that one of the models does not have, or has in another form."""
    return Difference(name, kind, "?", (), math.nan, math.inf, math.inf, problem)


def measure(name: str, kind: str, original: np.ndarray, rewritten: np.ndarray, floor: float) -> Difference:
    """Compare two arrays; the difference is divided at least by `floor`."""
    if original.dtype != rewritten.dtype or original.shape != rewritten.shape:
        return incomparable(
            name,
            kind,
            f"{_form(original)} in the original, {_form(rewritten)} in the rewritten model",
        )
    form = (str(original.dtype), original.shape)
    if not is_float(original):
        equal = bool(np.array_equal(original, rewritten))
        apart = 0.0 if equal else _exact_distance(original, rewritten)
        return Difference(name, kind, *form, magnitude(original), apart, 0.0 if equal else math.inf)
    first, second = original.astype(np.float64), rewritten.astype(np.float64)
    problem = None
    if first.size and not np.isfinite(first).any():
        problem = "the original gives no finite number on these inputs, so this says nothing"
    elif (np.isnan(first) != np.isnan(second)).any():
        problem = (
            f"{np.isnan(first).sum()} of {first.size} are NaN in the original, "
            f"{np.isnan(second).sum()} in the rewritten model"
        )
    elif (np.isinf(first) | np.isinf(second))[first != second].any() and not np.array_equal(
        np.where(np.isinf(first), first, 0), np.where(np.isinf(second), second, 0)
    ):
        problem = "infinite in one model where it is not in the other"
    if problem is not None:
        return Difference(name, kind, *form, magnitude(original), math.inf, math.inf, problem)
    finite = np.isfinite(first)
    absolute = float(np.abs(first[finite] - second[finite]).max(initial=0.0))
    largest = magnitude(original)
    scale = max(largest, floor)
    relative = absolute / scale if scale else (math.inf if absolute else 0.0)
    return Difference(name, kind, *form, largest, absolute, relative)


def magnitude(array: np.ndarray) -> float:
    """The largest finite magnitude."""
    if array.dtype.kind not in "fiub" and not is_float(array):
        return math.nan
    values = np.abs(array.astype(np.float64))
    return float(values[np.isfinite(values)].max(initial=0.0))


def is_float(array: np.ndarray) -> bool:
    """Whether rounding may differ; to numpy, bfloat16 is not a float."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _exact_distance(original: np.ndarray, rewritten: np.ndarray) -> float:
    if original.dtype.kind not in "iub":
        return math.inf
    return float(np.abs(original.astype(np.float64) - rewritten.astype(np.float64)).max())


def _form(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
