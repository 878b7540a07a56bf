"""Pools as convolutions with constant weights, whose gradients are right everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.formula import Formula
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.windows import kernel_of, of_windows


def average_pool(f: Formula) -> ir.Value:
    """The mean of each window: its sum, from a convolution per channel, divided by the number of elements that count.

    If the pool has `auto_pad`, `ExplicitPadsPass` has already written the pads.
    """
    x = f.input(0)
    shape = f.shape(x)
    kernel = kernel_of(f.node, shape)
    rank = len(kernel)
    strides, dilations, pads = (of_windows(f.node, name, rank) for name in ("strides", "dilations", "pads"))
    sizes: list[int | None] = (
        [None] * rank if shape is None else [size if isinstance(size, int) else None for size in shape[2:]]
    )
    if not any(pads) and sizes == kernel:
        return f.op("GlobalAveragePool", x)
    channels = shape[1] if shape is not None and isinstance(shape[1], int) else None
    behind = list(pads[rank:])
    if f.number("ceil_mode", 0):
        for axis, size in enumerate(sizes):
            if size is None:
                if strides[axis] == 1:
                    continue  # nothing to round
                raise _unknown(f, f"size {axis + 2} of its input, and it has ceil_mode = 1", "export with a fixed size")
            extent = (kernel[axis] - 1) * dilations[axis] + 1
            free = size + pads[axis] + pads[rank + axis] - extent
            windows = -(-free // strides[axis]) + 1
            if (windows - 1) * strides[axis] >= size + pads[axis]:
                windows -= 1  # a window that would begin after the data
            behind[axis] += max((windows - 1) * strides[axis] - free, 0)
    geometry: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    beyond = [more - pad for more, pad in zip(behind, pads[rank:], strict=True)]
    padding_counts = bool(f.number("count_include_pad", 0))
    counts = any(beyond) or (any(pads) and not padding_counts)
    sums = _sums(f, channels, 1.0 if counts else 1.0 / np.prod(kernel), [*pads[:rank], *behind], geometry)
    if not counts:
        return sums
    ones = _plane_of_ones(f, sizes)
    if padding_counts:
        ones = _padded_with_ones(f, ones, pads)
        around = [*(0 for _ in kernel), *beyond]
    else:
        around = [*pads[:rank], *behind]
    number = f.op("Conv", ones, f.constant(np.ones((1, 1, *kernel))), pads=around, **geometry)
    return f.op("Div", sums, number)


def max_pool(f: Formula) -> ir.Value | None:
    """The op without storage_order, which only affects its indices, and which ONNX Runtime's gradient ignores."""
    if not f.number("storage_order", 0):
        return None
    if len(f.node.outputs) > 1 and (f.node.outputs[1].uses() or f.node.outputs[1].is_graph_output()):
        raise OnnxCbpError(
            f"node '{label(f.node)}' (MaxPool) has storage_order = 1 and its indices are read, which no gradient can "
            "follow: export with storage_order = 0"
        )
    attributes = {name: each.value for name, each in f.node.attributes.items() if name != "storage_order"}
    return f.op("MaxPool", f.input(0), **attributes)


def _sums(f: Formula, channels: int | None, factor: float, pads: list[int], geometry: dict[str, Any]) -> ir.Value:
    """The sum of each window, times a factor."""
    x, kernel = f.input(0), geometry["kernel_shape"]
    if channels is not None and len(kernel) < 3:
        weight = f.constant(np.full((channels, 1, *kernel), factor))
        return f.op("Conv", x, weight, group=channels, pads=pads, **geometry)
    # Each plane separately: ONNX Runtime's gradient of a grouped convolution with three axes of space is wrong.
    spatial = f.sizes(list(range(2, 2 + len(kernel))))
    shape = f.op("Shape", x)
    planes = f.op("Reshape", x, f.op("Concat", f.sizes([-1, 1]), f.op("Gather", shape, spatial), axis=0))
    sums = f.op("Conv", planes, f.constant(np.full((1, 1, *kernel), factor)), pads=pads, **geometry)
    around, inside = f.op("Gather", shape, f.sizes([0, 1])), f.op("Gather", f.op("Shape", sums), spatial)
    return f.op("Reshape", sums, f.op("Concat", around, inside, axis=0))


def _plane_of_ones(f: Formula, sizes: list[int | None]) -> ir.Value:
    """Ones [1, 1, ...] in the size of the input's planes, computed from the input if the sizes are not known."""
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        return f.constant(np.ones((1, 1, *known)))
    planes = f.op("Gather", f.op("Shape", f.input(0)), f.sizes(list(range(2, 2 + len(sizes)))))
    size = f.op("Concat", f.sizes([1, 1]), planes, axis=0)
    return f.op("Expand", f.constant(np.ones((1, 1, *(1 for _ in sizes)))), size)


def _padded_with_ones(f: Formula, ones: ir.Value, pads: list[int]) -> ir.Value:
    rank = len(pads) // 2
    around = [0, 0, *pads[:rank], 0, 0, *pads[rank:]]
    return f.op("Pad", ones, f.sizes(around), 1.0)


def _unknown(f: Formula, what: str, remedy: str) -> OnnxCbpError:
    return OnnxCbpError(
        f"node '{label(f.node)}' (AveragePool): its gradient is to be built, and it is not known {what}: {remedy}"
    )


RULES = {"AveragePool": average_pool, "MaxPool": max_pool}
