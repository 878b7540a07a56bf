"""Compares the results of two candidates: if they differ, they are not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def largest_difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """The largest difference, relative to the largest value of each result; infinite if NaNs or shapes differ."""
    worst = 0.0
    for name, value in theirs.items():
        if name not in ours:
            continue
        mine = ours[name]
        if mine.shape != value.shape:
            return math.inf
        largest = float(np.abs(mine).max(initial=0.0))
        # In the type of the data: float64 of a large tensor would take gigabytes.
        apart = float(np.abs(mine - value).max(initial=0.0))
        if not math.isfinite(apart) or not math.isfinite(largest):
            return math.inf
        worst = max(worst, apart / largest if largest else apart)
    return worst
