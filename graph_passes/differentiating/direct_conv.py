"""Chooses the convolutions for which our ops for processors are faster, as measurements have shown.

ONNX Runtime turns a convolution into a product of matrices. On one core with AVX-512, our ops took 0.4 to 0.85 times
its time forward, 0.45 to 0.85 times for the gradient of the data, and 0.35 to 0.97 times for that of the weight. Ours
were slower where ONNX Runtime keeps the work: for windows of one element (1.2 times its time), for few outputs, which
fill the vectors badly, for the gradient of a weight with few channels, and for weights so large that reading them takes
most of the time (1.4 with 512 x 512 channels). On one core with AVX2 they took 0.5 to 0.9 times its time up to 64
channels, and 0.9 to 1.25 times with more; on two cores 0.3 to 1.1 times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnx_cbp.custom_ops.windows import MOST_AXES
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.windows import Windows

#: How many outputs are computed together.
_LANES = 16
#: The most elements of a window: as many as 7 x 7 has.
_MOST_ELEMENTS = 49
#: The most channels times outputs.
_MOST_WEIGHTS = 1 << 16
_FEWEST_CHANNELS = 8


def fits(g: Builder, X: Read, windows: Windows, channels: Any, outputs: Any) -> bool:
    """Whether our op is the faster one for a convolution of one group."""
    if not (g.own_convolutions and isinstance(channels, int) and isinstance(outputs, int)):
        return False
    whole = windows.loose or all(0 <= r < s for r, s in zip(windows.rest, windows.strides, strict=True))
    return (
        g.dtype(X) == ir.DataType.FLOAT
        and len(windows.kernel) <= MOST_AXES
        and 1 < math.prod(windows.kernel) <= _MOST_ELEMENTS
        and min(windows.pads) >= 0
        and whole
        and 2 * outputs >= _LANES * -(-outputs // _LANES)
    )


def stays_cached(channels: int, outputs: int) -> bool:
    """Whether the weight is so small that reading it does not dominate the time."""
    return channels * outputs <= _MOST_WEIGHTS


def pays(channels: int, outputs: int) -> bool:
    """Whether our op is also faster for the gradient of a weight."""
    return channels >= _FEWEST_CHANNELS and stays_cached(channels, outputs)


def by_own_op(g: Builder, op_type: str, X: Read, other: Read, windows: Windows, pads: Sequence[int]) -> ir.Value:
    """A node of our op `op_type`, which has the attributes of windows."""
    (result,) = g.ours(op_type, X, other, **attributes(windows, pads))
    return result


def attributes(windows: Windows, pads: Sequence[int]) -> dict[str, list[int]]:
    """The attributes of a node that has windows."""
    return {
        "kernel_shape": list(windows.kernel),
        "strides": list(windows.strides),
        "pads": list(pads),
        "dilations": list(windows.dilations),
    }
