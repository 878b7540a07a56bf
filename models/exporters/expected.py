"""What a framework itself computes of a network, beside the file that an exporter wrote of it.

A file NAME.npz has the batch ("x", "labels") and, in float32 of the framework's float64,

- "eval/output": the logits at inference,
- "frozen/loss", "frozen/gradient/PARAMETER": cross entropy and gradients with batch norms at inference,
- "train/loss", "train/gradient/PARAMETER": the same with batch norms that train,
- "train/output": the logits then,
- "train/running/STATISTIC": running statistics after that step.

PARAMETER and STATISTIC are names of initializers, in whose layout the values are.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

CLASSES = 3
SAMPLES = 6
#: Shapes of a sample, channels first. None of them was traced with that many samples.
SHAPES = {"image": (3, 8, 8), "signal": (3, 11), "volume": (2, 5, 6, 5)}


def batch(network: str, *, channels_last: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A batch whose samples have means of their own, and its labels."""
    rng = np.random.default_rng(sum(network.encode()))
    shape = SHAPES[network]
    means = np.arange(SAMPLES).reshape(-1, *[1] * len(shape)) / SAMPLES
    x = (rng.normal(size=(SAMPLES, *shape)) + means).astype(np.float32)
    if channels_last:
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    return x, rng.integers(0, CLASSES, SAMPLES)


def fresh(index: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A value for a parameter or a statistic that no other one has: what is equal, exporters may merge."""
    rng = np.random.default_rng(index)
    if "var" in name:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) > 1:
        return rng.normal(0, 0.4, shape).astype(np.float32)
    return (rng.normal(0, 0.2, shape) + (1 if "gamma" in name or "scale" in name else 0)).astype(np.float32)


def initializers_of(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple]]:
    """The initializer that holds each value, and the permutation and shape that the exporter gave it.

    A value that none holds is missing in the result.
    """
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {}
    for name, value in values.items():
        for initializer, array in arrays.items():
            if array.size != value.size or array.dtype != value.dtype:
                continue
            permutations = (
                p
                for p in itertools.permutations(range(value.ndim))
                if np.array_equal(value.transpose(p).reshape(array.shape), array)
            )
            if (permutation := next(permutations, None)) is not None:
                found[name] = (initializer, (permutation, array.shape))
                break
    return found


def by_initializers(model: onnx.ModelProto, held: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]) -> dict:
    """Results for values that initializers hold, by the initializers' names and in their layout."""
    places = initializers_of(model, held)
    missing = [name for name in results if name not in places]
    assert not missing, f"no initializer holds {missing}"
    return {
        places[name][0]: np.asarray(result).transpose(places[name][1][0]).reshape(places[name][1][1])
        for name, result in results.items()
    }


def write(path: Path, sections: Mapping[str, np.ndarray | float | Mapping[str, np.ndarray]]) -> None:
    """Write NAME.npz; a mapping of a section becomes SECTION/NAME for each name."""
    flat: dict[str, np.ndarray] = {}
    for section, value in sections.items():
        named = {f"{section}/{name}": each for name, each in value.items()} if isinstance(value, Mapping) else {}
        flat |= named or {section: np.asarray(value)}
    narrow = {name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in flat.items()}
    np.savez_compressed(path, **narrow)
