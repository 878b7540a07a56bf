"""Chooses the convolutions that become our ops for processors, by what was measured.

Against ONNX Runtime's, which makes a product of matrices of a convolution, on one core with AVX-512 (time over time):
forward 0.4 to 0.85, gradient of the data 0.45 to 0.85, of the weight 0.35 to 0.97. What is left to ONNX Runtime lost
there: windows of one element (1.2), few outputs, which fill the vectors badly, few channels to differentiate a weight
by, and weights so large that they are what is read (1.4 with 512 x 512 channels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnx_cbp.custom_ops.windows import MOST_AXES
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.windows import Windows

#: Outputs that are computed together.
_LANES = 16
#: Elements of a window: as many as 7 x 7 have.
_MOST_ELEMENTS = 49
#: Channels times outputs.
_MOST_WEIGHTS = 1 << 16
_FEWEST_CHANNELS = 8


def fits(g: Builder, X: Read, windows: Windows, channels: Any, outputs: Any) -> bool:
    """Whether an op of ours is the faster one for a convolution of one group."""
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
    """Whether the weight is so small that it is not what takes the time."""
    return channels * outputs <= _MOST_WEIGHTS


def pays(channels: int, outputs: int) -> bool:
    """Whether this holds for the gradient of a weight, too."""
    return channels >= _FEWEST_CHANNELS and stays_cached(channels, outputs)


def by_own_op(g: Builder, op_type: str, X: Read, other: Read, windows: Windows, pads: Sequence[int]) -> ir.Value:
    """The node of an op of ours that looks through windows."""
    (result,) = g.ours(op_type, X, other, **attributes(windows, pads))
    return result


def attributes(windows: Windows, pads: Sequence[int]) -> dict[str, list[int]]:
    """Of a node that looks through windows."""
    return {
        "kernel_shape": list(windows.kernel),
        "strides": list(windows.strides),
        "pads": list(pads),
        "dilations": list(windows.dilations),
    }
