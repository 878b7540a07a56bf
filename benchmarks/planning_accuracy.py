"""How exact other ways to merge statistics would be, in double (docs/internals/planning.md): errors of the variance.

python benchmarks/planning_accuracy.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

PARTS, SAMPLES, DRAWS = 64, 32 * 49, 50
OFFSETS = (0.0, 1e2, 1e4, 1e6)


def by_one_sum(means: np.ndarray, variances: np.ndarray) -> float:
    """Sums, and sums of squares."""
    squares = (SAMPLES * (variances + means * means)).sum()
    return float(squares / (PARTS * SAMPLES) - ((SAMPLES * means).sum() / (PARTS * SAMPLES)) ** 2)


def by_two_sums(means: np.ndarray, variances: np.ndarray) -> float:
    """The mean of all first, then squares around it."""
    mean = (SAMPLES * means).sum() / (PARTS * SAMPLES)
    return float((SAMPLES * (variances + (means - mean) ** 2)).sum() / (PARTS * SAMPLES))


def by_chan(means: np.ndarray, variances: np.ndarray) -> float:
    """Chan's merge, one part after the other."""
    mean, squares, count = means[0], variances[0] * SAMPLES, SAMPLES
    for other, variance in zip(means[1:], variances[1:], strict=True):
        delta, together = other - mean, count + SAMPLES
        squares += variance * SAMPLES + delta * delta * count * SAMPLES / together
        mean += delta * SAMPLES / together
        count = together
    return float(squares / count)


def main() -> None:
    """Print the worst relative error of each, by the offset of N(0, 1) data."""
    ways: list[Callable[[np.ndarray, np.ndarray], float]] = [by_one_sum, by_two_sums, by_chan]
    generator = np.random.default_rng(0)
    for offset in OFFSETS:
        worst = dict.fromkeys((way.__name__ for way in ways), 0.0)
        for _ in range(DRAWS):
            data = (generator.normal(size=(PARTS, SAMPLES)) + offset).astype(np.longdouble)
            exact = float(data.var())
            means, variances = data.mean(axis=1).astype(np.float64), data.var(axis=1).astype(np.float64)
            for way in ways:
                worst[way.__name__] = max(worst[way.__name__], abs(way(means, variances) / exact - 1))
        print(f"offset {offset:g}: " + ", ".join(f"{name} {error:.1e}" for name, error in worst.items()))


if __name__ == "__main__":
    main()
