"""Normalisations over a part of each sample, in means and elementary ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.formula import Formula


def instance_normalization(f: Formula) -> ir.Value | None:
    """Y = scale * (x - mean) / sqrt(variance + epsilon) + B, over each plane."""
    x = f.input(0)
    shape = f.shape(x)
    if shape is None:
        return None
    axes = list(range(2, len(shape)))
    centred = f.op("Sub", x, f.reduce("ReduceMean", x, axes))
    variance = f.reduce("ReduceMean", f.op("Mul", centred, centred), axes)
    std = f.op("Sqrt", f.op("Add", variance, f.number("epsilon", 1e-5)))
    per_channel = f.sizes([1, -1, *(1 for _ in axes)])
    scale, B = (f.op("Reshape", f.input(index), per_channel) for index in (1, 2))
    return f.op("Add", f.op("Mul", f.op("Div", centred, std), scale), B)


def mean_variance_normalization(f: Formula) -> ir.Value:
    """Y = (x - mean) / (sqrt(variance) + 1e-9), over the given axes."""
    x, axes = f.input(0), f.integers("axes") or [0, 2, 3]
    centred = f.op("Sub", x, f.reduce("ReduceMean", x, axes))
    variance = f.reduce("ReduceMean", f.op("Mul", centred, centred), axes)
    return f.op("Div", centred, f.op("Add", f.op("Sqrt", variance), 1e-9))


def lp_normalization(f: Formula) -> ir.Value:
    """Y = x / norm(x, p) along an axis."""
    x, axes = f.input(0), [int(f.number("axis", -1))]
    norm = "ReduceL1" if f.number("p", 2) == 1 else "ReduceL2"
    return f.op("Div", x, f.reduce(norm, x, axes))


def layer_normalization(f: Formula) -> ir.Value | None:
    """The op with all three results, and with a bias: a gradient reads the mean and the deviation."""
    node = f.node
    inputs = list(node.inputs)
    if len(inputs) < 3 or inputs[2] is None:
        scale = f.shape(f.input(1))
        if scale is None or any(not isinstance(size, int) for size in scale):
            return None
        inputs = [*inputs[:2], f.constant(np.zeros(scale))]  # type: ignore[arg-type]
    elif len(node.outputs) >= 3:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return f.op("LayerNormalization", *inputs, outputs=3, **attributes)


RULES = {
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
}
