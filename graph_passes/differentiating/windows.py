"""The windows of a convolution or a pooling: sizes, steps and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute
from onnx_cbp.graph_passes.differentiating.attributes import ints, text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read


@dataclass(frozen=True)
class Windows:
    """One entry an axis of space.

    Attributes:
        size: elements of the data; None where that is known at run time only.
        count: windows; None likewise.
        kernel: elements of a window.
        strides: from window to window.
        dilations: from element to element of a window.
        before, after: padding.
    """

    size: tuple[int | None, ...]
    count: tuple[int | None, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def axes(self) -> range:
        """The axes of space: those of the data but batch and channels."""
        return range(2, 2 + len(self.size))

    @property
    def extent(self) -> tuple[int, ...]:
        """From the first element of a window to its last, both counted."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))

    @property
    def fixed(self) -> bool:
        """Whether all sizes are known."""
        return not any(each is None for each in (*self.size, *self.count))

    @property
    def loose(self) -> bool:
        """Whether `rest` is known at run time only. With steps of 1 there is none, whatever the size is."""
        return not self.fixed and any(s > 1 for s in self.strides)

    @property
    def rest(self) -> tuple[int, ...]:
        """Elements at the end of the padded data that no window reaches; negative where the last one goes beyond."""
        assert not self.loose
        sizes = zip(self.size, self.count, self.strides, self.extent, self.before, self.after, strict=True)
        return tuple(0 if n is None or c is None else b + n + a - (c - 1) * s - e for n, c, s, e, b, a in sizes)

    @property
    def pads(self) -> list[int]:
        """As ONNX writes them."""
        return [*self.before, *self.after]

    @property
    def overlap(self) -> bool:
        """Whether an element may be in two windows."""
        return any(e > s for e, s in zip(self.extent, self.strides, strict=True))


def windows(g: Builder, node: ir.Node, data: Read, result: Read, kernel: Sequence[int]) -> Windows:
    """The windows of a node whose attributes are those of Conv: `data` is looked at, `result` has one place a window.

    Raises:
        OnnxCbpError: an axis of space has no fixed size, and auto_pad asks for it.
    """
    rank = len(kernel)
    size, count = sizes(g, data, rank), sizes(g, result, rank)
    strides, dilations = (ints(node, name, [1] * rank) for name in ("strides", "dilations"))
    pads = ints(node, "pads", [0] * 2 * rank)
    before, after = pads[:rank], pads[rank:]
    auto = text(node, "auto_pad", "NOTSET")
    if auto == "VALID":
        before = after = [0] * rank
    elif auto != "NOTSET":
        inner, outer = (g.fixed(value, range(2, 2 + rank)) for value in (data, result))
        before, after = _same(inner, outer, strides, dilations, kernel, upper=auto == "SAME_UPPER")
    vectors = (tuple(each) for each in (kernel, strides, dilations, before, after))
    return Windows(tuple(size), tuple(count), *vectors)


def sizes(g: Builder, value: Read, rank: int) -> list[int | None]:
    """The sizes of the axes of space of a value, None where they are known at run time only."""
    return [size if isinstance(size, int) else None for size in g.shape(value)[2 : 2 + rank]]


def _same(
    size: Sequence[int],
    count: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    kernel: Sequence[int],
    *,
    upper: bool,
) -> tuple[list[int], list[int]]:
    """The padding of auto_pad = SAME_UPPER or SAME_LOWER, which say where an odd element goes."""
    before, after = [], []
    for n, c, s, d, k in zip(size, count, strides, dilations, kernel, strict=True):
        total = max(0, (c - 1) * s + d * (k - 1) + 1 - n)
        before.append(total // 2 if upper else total - total // 2)
        after.append(total - before[-1])
    return before, after


def group(node: ir.Node) -> int:
    """The groups of a convolution."""
    return attribute(node, "group", 1)
