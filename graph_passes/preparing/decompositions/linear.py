"""Products of matrices, powers, and convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.formula import Formula
from onnx_cbp.graph_passes.core.windows import of_windows

_MOST_GROUPS = 64


def matmul(f: Formula) -> ir.Value | None:
    """A product with a vector becomes one with a matrix of one row or column."""
    left, right = f.input(0), f.input(1)
    ranks = [None if (shape := f.shape(value)) is None else len(shape) for value in (left, right)]
    if None in ranks or 1 not in ranks:
        return None
    axes = []
    if ranks[0] == 1:
        left = f.unsqueeze(left, [0])
        axes.append(-2)
    if ranks[1] == 1:
        right = f.unsqueeze(right, [1])
        axes.append(-1)
    product = f.op("MatMul", left, right)
    rank = max(2, *(rank for rank in ranks if rank is not None))
    return f.squeeze(product, [axis + rank for axis in axes])


def power(f: Formula) -> ir.Value | None:
    """x^y = exp(y * log(x)) if y has a gradient; a y of integers is cast to the type of x."""
    x, y = f.input(0), f.input(1)
    if f.followed is not None and y in f.followed:
        return f.op("Exp", f.op("Mul", y, f.op("Log", x)))
    known = f.known(1)
    if y.dtype is None or y.dtype == f.dtype or known is None:
        return None
    return f.op("Pow", x, f.constant(known))


def conv(f: Formula) -> ir.Value | None:
    """A grouped convolution with three or more axes of space is split by group: its gradient would be wrong."""
    groups, weights = int(f.number("group", 1)), f.shape(f.input(1))
    if groups == 1 or weights is None or len(weights) < 5:
        return None
    outer, inner = weights[:2]
    if not isinstance(outer, int) or not isinstance(inner, int) or groups > _MOST_GROUPS:
        return None
    bias = f.node.inputs[2] if len(f.node.inputs) > 2 else None
    attributes = {name: each.value for name, each in f.node.attributes.items() if name != "group"}

    def part(value: ir.Value, axis: int, size: int, group: int) -> ir.Value:
        return f.op("Slice", value, *(f.sizes([each]) for each in (group * size, (group + 1) * size, axis)))

    results = []
    for group in range(groups):
        inputs = [part(f.input(0), 1, inner, group), part(f.input(1), 0, outer // groups, group)]
        more = [] if bias is None else [part(bias, 0, outer // groups, group)]
        results.append(f.op("Conv", *inputs, *more, **attributes))
    return f.op("Concat", *results, axis=1)


def conv_transpose(f: Formula) -> ir.Value | None:
    """A convolution over the input with zeros between its elements, with reversed weights.

    If the op has `auto_pad`, `ExplicitPadsPass` has already written the pads.
    """
    x, weight = f.input(0), f.input(1)
    shape, weights = f.shape(x), f.shape(weight)
    if (
        shape is None
        or weights is None
        or any(not isinstance(size, int) for size in weights)
        or len(shape) != len(weights)
    ):
        return None
    sizes = [int(size) for size in weights]  # type: ignore[arg-type]
    kernel, rank = sizes[2:], len(sizes) - 2
    strides, dilations, more = (of_windows(f.node, name, rank) for name in ("strides", "dilations", "output_padding"))
    extents = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
    pads = _pads(f, shape, extents, strides, more)
    if pads is None:
        return None
    groups = int(f.number("group", 1))
    spread = _with_zeros_between(f, x, strides)
    front = [extent - pad for extent, pad in zip(extents, pads[:rank], strict=True)]
    # The zeros after the last element are already there.
    behind = [
        extent - pad + extra - (stride - 1)
        for extent, pad, extra, stride in zip(extents, pads[rank:], more, strides, strict=True)
    ]
    spread = f.op("Pad", spread, f.sizes([0, 0, *front, 0, 0, *behind]))
    for axis, size in enumerate(kernel):
        if size > 1:
            weight = f.op("Gather", weight, f.sizes(np.arange(size)[::-1]), axis=axis + 2)
    inner = sizes[0] // groups
    weight = f.op("Reshape", weight, f.sizes([groups, inner, sizes[1], *kernel]))
    weight = f.op("Transpose", weight, perm=[0, 2, 1, *range(3, 3 + rank)])
    weight = f.op("Reshape", weight, f.sizes([groups * sizes[1], inner, *kernel]))
    bias = f.node.inputs[2:3]
    return f.op("Conv", spread, weight, *bias, kernel_shape=kernel, dilations=dilations, group=groups)


def _pads(
    f: Formula, shape: tuple[int | str | None, ...], extents: list[int], strides: list[int], more: list[int]
) -> list[int] | None:
    """The pads, also if the op has the shape of its output instead; None if they depend on an unknown size."""
    output = f.integers("output_shape")
    if output is None:
        return of_windows(f.node, "pads", len(extents))
    front, behind = [], []
    for size, extent, stride, extra, wanted in zip(
        shape[2:], extents, strides, more, output[-len(extents) :], strict=True
    ):
        if not isinstance(size, int):
            return None
        total = max(stride * (size - 1) + extra + extent + 1 - wanted, 0)
        smaller = total // 2
        upper = f.text("auto_pad", "NOTSET") == "SAME_UPPER"
        front.append(smaller if upper else total - smaller)
        behind.append(total - smaller if upper else smaller)
    return [*front, *behind]


def _with_zeros_between(f: Formula, x: ir.Value, strides: list[int]) -> ir.Value:
    """`x` with stride - 1 zeros after each element of each plane."""
    rank = len(strides)
    if max(strides) == 1:
        return x
    axes = [3 + 2 * axis for axis in range(rank)]
    wide = f.unsqueeze(x, axes)
    behind = [0] * (2 + 2 * rank)
    for axis, stride in zip(axes, strides, strict=True):
        behind[axis] = stride - 1
    padded = f.op("Pad", wide, f.sizes([*(0 for _ in behind), *behind]))
    size = f.op("Mul", f.op("Shape", x), f.sizes([1, 1, *strides]))
    return f.op("Reshape", padded, size)


RULES = {"Conv": conv, "ConvTranspose": conv_transpose, "MatMul": matmul, "Pow": power}
