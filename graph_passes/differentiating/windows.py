"""The windows of a convolution or a pooling: sizes, steps and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.graph_passes.core.windows import of_windows
from onnx_cbp.graph_passes.dialects._reading import WrongAttributeError, attribute
from onnx_cbp.graph_passes.differentiating.attributes import text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read


@dataclass(frozen=True)
class Windows:
    """The windows of an op: each attribute has one entry per axis of space.

    Attributes:
        size: elements of the data; None if this is known only at run time.
        count: windows; None likewise.
        kernel: elements of a window.
        strides: from one window to the next.
        dilations: from one element of a window to the next.
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
        """The axes of space: all axes of the data but batch and channels."""
        return range(2, 2 + len(self.size))

    @property
    def extent(self) -> tuple[int, ...]:
        """From a window's first element to its last, both counted."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))

    @property
    def fixed(self) -> bool:
        """Whether all sizes are known."""
        return not any(each is None for each in (*self.size, *self.count))

    @property
    def loose(self) -> bool:
        """Whether `rest` is known only at run time. If strides are 1 there is none, whatever the size."""
        return not self.fixed and any(s > 1 for s in self.strides)

    @property
    def rest(self) -> tuple[int, ...]:
        """Elements at the end of the padded data that no window reaches; negative if the last one goes beyond."""
        assert not self.loose
        sizes = zip(self.size, self.count, self.strides, self.extent, self.before, self.after, strict=True)
        return tuple(0 if n is None or c is None else b + n + a - (c - 1) * s - e for n, c, s, e, b, a in sizes)

    @property
    def pads(self) -> list[int]:
        """The padding as ONNX writes it."""
        return [*self.before, *self.after]

    @property
    def overlap(self) -> bool:
        """Whether windows may share elements."""
        return any(e > s for e, s in zip(self.extent, self.strides, strict=True))


def windows(g: Builder, node: ir.Node, data: Read, result: Read, kernel: Sequence[int]) -> Windows:
    """The windows of a node with the attributes of Conv: they look at `data`, and `result` has one place per window.

    Raises:
        OnnxCbpError: an attribute does not fit the data, or auto_pad needs the size of an axis of space, which is not
            fixed.
    """
    rank = len(kernel)
    size, count = sizes(g, data, rank), sizes(g, result, rank)
    strides, dilations, pads = (of_windows(node, name, rank) for name in ("strides", "dilations", "pads"))
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
    """The sizes of a value's axes of space; None if known only at run time.

    Raises:
        OnnxCbpError: it has not as many as the windows.
    """
    shape = g.shape(value)
    if len(shape) != rank + 2:
        raise g.refuse(f"'{g.there(value).name}' has {len(shape)} axes, and windows over {rank} need {rank + 2}")
    return [size if isinstance(size, int) else None for size in shape[2:]]


def _same(
    size: Sequence[int],
    count: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    kernel: Sequence[int],
    *,
    upper: bool,
) -> tuple[list[int], list[int]]:
    """The padding for auto_pad = SAME_UPPER or SAME_LOWER, which say where an odd element goes."""
    before, after = [], []
    for n, c, s, d, k in zip(size, count, strides, dilations, kernel, strict=True):
        total = max(0, (c - 1) * s + d * (k - 1) + 1 - n)
        before.append(total // 2 if upper else total - total // 2)
        after.append(total - before[-1])
    return before, after


def group(node: ir.Node) -> int:
    """The number of groups of a convolution.

    Raises:
        WrongAttributeError: it is below 1.
    """
    number = attribute(node, "group", 1)
    if number < 1:
        raise WrongAttributeError(f"attribute 'group' is {number}, expected at least 1")
    return number
