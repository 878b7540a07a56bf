"""Inputs for the kernels of one shape, in files that every process reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnx_cbp.bench.dtypes import DTYPES, statistics_type, type_in_files
from onnx_cbp.bench.kernels import EPSILON
from onnx_cbp.bench.shapes import Shape

#: Names of the inputs with the shape of X; all others are a vector of channels, or the count.
DATA = ("X", "dY", "Y")


def write_inputs(shape: Shape, data: str, seed: int, folder: Path) -> dict[str, Path]:
    """Random inputs: the statistics fit X as in a network, and half of Y is zero."""
    rng = np.random.default_rng(seed)
    axis = shape.axis % len(shape.dimensions)
    others = tuple(i for i in range(len(shape.dimensions)) if i != axis)
    channels = shape.channels
    X = rng.standard_normal(shape.dimensions, np.float32)
    X *= 2
    X += 0.5
    dtype = DTYPES[data]
    X = X.astype(dtype)
    wide = X.astype(type_in_files(data), copy=False)
    mean = wide.mean(axis=others, dtype=np.float64)
    var = wide.var(axis=others, dtype=np.float64)
    centred = wide - np.expand_dims(mean.astype(statistics_type(data)), others)
    values = {
        "X": X,
        "dY": rng.standard_normal(shape.dimensions, np.float32).astype(dtype),
        "Y": np.maximum(centred, 0, out=centred).astype(dtype, copy=False),
        "scale": rng.normal(1.0, 0.3, channels),
        "B": rng.normal(0.0, 0.5, channels),
        "mean": mean,
        "var": var,
        "inv_std": 1.0 / np.sqrt(var + EPSILON),
        "slope": np.ones(channels),  # as Y was computed
        "offset": np.zeros(channels),
        "scale_grad": rng.normal(0.0, 5.0, channels),
        "bias_grad": rng.normal(0.0, 5.0, channels),
        "running_mean": rng.normal(0.0, 1.0, channels),
        "running_var": rng.uniform(0.5, 2.0, channels),
        "count": np.array(shape.elements // channels, np.int64),
    }
    paths = {}
    for name, value in values.items():
        if name != "count":
            value = value.astype(type_in_files(data) if name in DATA else statistics_type(data), copy=False)
        paths[name] = folder / f"{name}.npy"
        np.save(paths[name], value)
    return paths
