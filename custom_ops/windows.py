"""The windows of a convolution, computed from its attributes, which are those of ONNX's Conv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Each has a number for each axis of space; pads has the begins of all axes, then the ends.
WINDOW_ATTRIBUTES = ("kernel_shape", "strides", "pads", "dilations")
#: The most axes of space for which there are kernels.
MOST_AXES = 3


@dataclass(frozen=True)
class Windows:
    """The windows on data [N, C, ...] of a convolution, which is either depthwise or of one group.

    Attributes:
        batch, channels: of the data.
        multiplier: results per channel, if the convolution is depthwise.
        outputs: channels of the result, if the convolution has one group; otherwise None.
        size: elements of the data along each axis of space.
        count: windows along each axis.
        kernel: elements of a window along each axis.
        strides, pads, dilations: as in ONNX.
    """

    batch: int
    channels: int
    multiplier: int
    size: tuple[int, ...]
    count: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    outputs: int | None = None

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of the data."""
        return (self.batch, self.channels, *self.size)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result, which has one place per window."""
        return (self.batch, self.results, *self.count)

    @property
    def results(self) -> int:
        """The number of channels of the result."""
        return self.channels * self.multiplier if self.outputs is None else self.outputs

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the convolution's weight."""
        return (self.results, 1 if self.outputs is None else self.channels, *self.kernel)

    @property
    def exchanged_shape(self) -> tuple[int, ...]:
        """The shape of that weight with its first two axes exchanged."""
        results, seen, *kernel = self.weight_shape
        return (seen, results, *kernel)


def defaults_of(axes: int) -> dict[str, list[int]]:
    """ONNX's defaults for windows over so many axes of space; kernel_shape has none."""
    return {"strides": [1] * axes, "pads": [0] * 2 * axes, "dilations": [1] * axes}


def counts_of(size: Sequence[int | None], attributes: Mapping[str, Sequence[int]]) -> list[int | None]:
    """Windows along each axis of space; None if the size is None, or if the attributes do not fit it."""
    counts: list[int | None] = []
    for i, n in enumerate(size):
        ends = attributes["pads"]
        own = {name: [*attributes[name][i : i + 1]] for name in ("kernel_shape", "strides", "dilations")}
        own["pads"] = [ends[i], ends[len(size) + i]] if len(ends) == 2 * len(size) else []
        try:
            counts.append(None if n is None else windows_of((1, 1, n), (), own, outputs=1).count[0])
        except ValueError:
            counts.append(None)
    return counts


def windows_of(
    data: Sequence[int],
    results: Sequence[int],
    attributes: Mapping[str, Sequence[int]],
    *,
    outputs: int | None = None,
) -> Windows:
    """The windows on data of this shape.

    Args:
        data: [N, C, ...].
        results: the shape of the result, which has one place per window; only its number of channels is read.
        attributes: those of `WINDOW_ATTRIBUTES`; an empty one stands for ONNX's default.
        outputs: channels of the result of a convolution of one group; then `results` need not have them.

    Raises:
        ValueError: an attribute does not fit; the message names it, its value and what it may be.
    """
    axes = len(data) - 2
    if not 1 <= axes <= MOST_AXES:
        raise ValueError(
            f"input 'X' has shape {list(data)}; it needs a batch, channels, and one to three axes of space"
        )
    defaults = defaults_of(axes)
    lists = {name: tuple(map(int, attributes[name] or defaults.get(name, ()))) for name in WINDOW_ATTRIBUTES}
    for name, numbers in lists.items():
        length, least = (2 * axes, 0) if name == "pads" else (axes, 1)
        if len(numbers) != length or min(numbers) < least:
            raise ValueError(
                f"attribute '{name}' is {list(numbers)}; X of shape {list(data)} needs {length} numbers, "
                f"{least} or more"
            )
    kernel, strides, pads, dilations = lists.values()
    count = []
    for i, (n, k, s, d) in enumerate(zip(data[2:], kernel, strides, dilations, strict=True)):
        room = pads[i] + n + pads[axes + i] - (d * (k - 1) + 1)
        if room < 0 or n == 0:
            raise ValueError(
                f"attribute 'kernel_shape' is {list(kernel)}: its window is larger than the padded input 'X' of shape "
                f"{list(data)}; use a smaller one"
            )
        count.append(room // s + 1)
    channels = int(data[1])
    of_results = int(results[1]) if len(results) == len(data) else 0
    # If this is not exact, the check of the shape reports it.
    multiplier = max(1, of_results // channels) if channels else 1
    return Windows(
        int(data[0]), channels, multiplier, tuple(data[2:]), tuple(count), kernel, strides, pads, dilations, outputs
    )
