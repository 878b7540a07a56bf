"""The windows of a convolution: the shapes that follow from its attributes, which are those of ONNX's Conv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: With a number for each axis of space; pads has those at the beginning of all axes, then those at the end.
WINDOW_ATTRIBUTES = ("kernel_shape", "strides", "pads", "dilations")
#: Axes of space that there are kernels for.
MOST_AXES = 3


@dataclass(frozen=True)
class Windows:
    """Windows on data [N, C, ...] of a convolution that is depthwise or of one group.

    Attributes:
        batch, channels: of the data.
        outputs: channels of the result of a convolution of one group; None of a depthwise one, where each channel has
            `multiplier` results of its own.
        size: elements of the data along each axis of space.
        count: windows.
        kernel: elements of a window.
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
        """Of the data."""
        return (self.batch, self.channels, *self.size)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Of what has one place for each window."""
        return (self.batch, self.results, *self.count)

    @property
    def results(self) -> int:
        """Channels of the result."""
        return self.channels * self.multiplier if self.outputs is None else self.outputs

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the weight of the convolution."""
        return (self.results, 1 if self.outputs is None else self.channels, *self.kernel)

    @property
    def exchanged_shape(self) -> tuple[int, ...]:
        """Of that weight with its first two axes exchanged."""
        results, seen, *kernel = self.weight_shape
        return (seen, results, *kernel)


def counts_of(size: Sequence[int | None], attributes: Mapping[str, Sequence[int]]) -> list[int | None]:
    """Windows along each axis of space; None where the size is, or where the attributes do not fit it."""
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
    """The windows on data of a shape.

    Args:
        data: [N, C, ...].
        results: the shape of what has one place for each window; the number of its channels is all that is read.
        attributes: those of `WINDOW_ATTRIBUTES`; an empty one has ONNX's default.
        outputs: channels of the result of a convolution of one group, which `results` need not tell then.

    Raises:
        ValueError: one does not fit; it names the attribute, its value and what it may be.
    """
    axes = len(data) - 2
    if not 1 <= axes <= MOST_AXES:
        raise ValueError(
            f"input 'X' has shape {list(data)}; it needs a batch, channels, and one to three axes of space"
        )
    defaults = {"strides": [1] * axes, "pads": [0] * 2 * axes, "dilations": [1] * axes}
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
    # Where it is no multiple, the shape that is expected says so.
    multiplier = max(1, of_results // channels) if channels else 1
    return Windows(
        int(data[0]), channels, multiplier, tuple(data[2:]), tuple(count), kernel, strides, pads, dilations, outputs
    )
