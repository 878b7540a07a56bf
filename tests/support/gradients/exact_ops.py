"""Ops of ONNX in double, where onnx's reference rounds to float, is missing, or is not what the specification says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Erf(OpRun):
    """onnx's own rounds."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (_erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """onnx's own rounds."""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + _erf(x / math.sqrt(2))),)


class GatherElements(OpRun):
    """onnx's own wants the other axes of the indices to be as long as the data's."""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        places = list(np.indices(indices.shape))
        places[axis] = indices
        return (data[tuple(places)],)


class Pad(OpRun):
    """onnx's own takes no negative pads."""

    def _run(
        self, data: np.ndarray, pads: np.ndarray, value: Any = None, axes: Any = None, mode: str = "constant"
    ) -> tuple[np.ndarray]:
        axes = range(data.ndim) if axes is None else [int(axis) % data.ndim for axis in axes]
        cut, widths = [slice(None)] * data.ndim, [(0, 0)] * data.ndim
        for i, axis in enumerate(axes):
            before, after = int(pads[i]), int(pads[len(pads) // 2 + i])
            cut[axis] = slice(max(-before, 0), data.shape[axis] - max(-after, 0))
            widths[axis] = (max(before, 0), max(after, 0))
        more = {"constant_values": 0 if value is None else np.asarray(value).item()} if mode == "constant" else {}
        return (np.pad(data[tuple(cut)], widths, mode=mode, **more),)  # type: ignore[call-overload]


class Conv(OpRun):
    """onnx's own pads otherwise with auto_pad, in some versions."""

    def _run(
        self,
        X: np.ndarray,
        W: np.ndarray,
        B: np.ndarray | None = None,
        auto_pad: str = "NOTSET",
        dilations: Any = None,
        group: int = 1,
        kernel_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[np.ndarray]:
        rank = X.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        padding = []
        for n, k, s, d, given in zip(X.shape[2:], W.shape[2:], strides, dilations, _pairs(pads, rank), strict=True):
            padding.append(given if auto_pad == "NOTSET" else _auto(n, k, s, d, auto_pad))
        X = np.pad(X, [(0, 0), (0, 0), *padding])
        counts = [
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(X.shape[2:], W.shape[2:], strides, dilations, strict=True)
        ]
        weights = W.reshape(group, -1, *W.shape[1:])
        result = np.zeros((len(X), len(W), *counts), X.dtype)
        for place in itertools.product(*map(range, W.shape[2:])):
            where = tuple(
                slice(p * d, p * d + (c - 1) * s + 1, s)
                for p, d, c, s in zip(place, dilations, counts, strides, strict=True)
            )
            seen = X[(slice(None), slice(None), *where)].reshape(len(X), group, -1, *counts)
            result += np.einsum("ngc...,gfc->ngf...", seen, weights[(..., *place)]).reshape(result.shape)
        return (result if B is None else result + B.reshape(-1, *[1] * rank),)


def _auto(size: int, kernel: int, stride: int, dilation: int, auto: str) -> tuple[int, int]:
    """The padding that auto_pad means."""
    if auto == "VALID":
        return 0, 0
    total = max((math.ceil(size / stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    before = total // 2 if auto == "SAME_UPPER" else total - total // 2
    return before, total - before


class ConvTranspose(OpRun):
    """onnx's own knows no groups with more than one channel."""

    def _run(
        self,
        X: np.ndarray,
        W: np.ndarray,
        B: np.ndarray | None = None,
        auto_pad: str = "NOTSET",
        dilations: Any = None,
        group: int = 1,
        kernel_shape: Any = None,
        output_padding: Any = None,
        output_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[np.ndarray]:
        rank = X.ndim - 2
        strides, dilations, extra = strides or [1] * rank, dilations or [1] * rank, output_padding or [0] * rank
        pads = list(pads or [0] * 2 * rank)
        whole = [
            (n - 1) * s + d * (k - 1) + 1 + e
            for n, s, d, k, e in zip(X.shape[2:], strides, dilations, W.shape[2:], extra, strict=True)
        ]
        if output_shape is not None:
            totals = [w - o for w, o in zip(whole, output_shape, strict=True)]
            before = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals]
            pads = [*before, *(t - b for t, b in zip(totals, before, strict=True))]
        filters = W.shape[1]
        full = np.zeros((len(X), filters * group, *whole), X.dtype)
        grouped = X.reshape(len(X), group, -1, *X.shape[2:])
        weights = W.reshape(group, -1, *W.shape[1:])
        for place in itertools.product(*map(range, W.shape[2:])):
            added = np.einsum("ngc...,gcf->ngf...", grouped, weights[(..., *place)])
            where = tuple(
                slice(p * d, p * d + (n - 1) * s + 1, s)
                for p, d, n, s in zip(place, dilations, X.shape[2:], strides, strict=True)
            )
            full[(slice(None), slice(None), *where)] += added.reshape(len(X), -1, *X.shape[2:])
        kept = tuple(slice(b, w - a) for b, a, w in zip(pads[:rank], pads[rank:], whole, strict=True))
        result = full[(slice(None), slice(None), *kept)]
        return (result if B is None else result + B.reshape(-1, *[1] * rank),)


class MaxPool(OpRun):
    """onnx's own counts Indices otherwise where windows overlap."""

    def _run(
        self,
        X: np.ndarray,
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        dilations: Any = None,
        kernel_shape: Any = None,
        pads: Any = None,
        storage_order: int = 0,
        strides: Any = None,
    ) -> tuple[np.ndarray, ...]:
        rank = X.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        places = [
            list(_windows(*each, auto_pad, ceil_mode))
            for each in zip(X.shape[2:], kernel_shape, strides, dilations, _pairs(pads, rank), strict=True)
        ]
        Y = np.zeros((*X.shape[:2], *map(len, places)), X.dtype)
        indices = np.zeros(Y.shape, np.int64)
        numbers = np.arange(X.size).reshape(X.shape)
        for window in itertools.product(*(range(len(each)) for each in places)):
            seen = np.ix_(*map(range, X.shape[:2]), *(each[i] for each, i in zip(places, window, strict=True)))
            flat, number = X[seen].reshape(*X.shape[:2], -1), numbers[seen].reshape(*X.shape[:2], -1)
            best = flat.argmax(axis=-1)[..., None]
            Y[(..., *window)] = np.take_along_axis(flat, best, -1)[..., 0]
            indices[(..., *window)] = np.take_along_axis(number, best, -1)[..., 0]
        return (Y, indices) if len(self.onnx_node.output) > 1 else (Y,)


def _pairs(pads: Sequence[int] | None, rank: int) -> list[tuple[int, int]]:
    pads = pads or [0] * 2 * rank
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _windows(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], auto: str, ceil: int
) -> Iterator[list[int]]:
    """The elements that each window sees along one axis."""
    extent = dilation * (kernel - 1) + 1
    before, after = pads
    if auto != "NOTSET":
        before, after = _auto(size, kernel, stride, dilation, auto)
    steps = (size + before + after - extent) / stride
    count = (math.ceil(steps) if ceil else math.floor(steps)) + 1
    if ceil and (count - 1) * stride >= size + before:
        count -= 1  # it would see nothing but padding
    for window in range(count):
        first = window * stride - before
        yield [place for place in range(first, first + extent, dilation) if 0 <= place < size]


class GlobalMaxPool(OpRun):
    """onnx's own has two axes of space."""

    def _run(self, X: np.ndarray) -> tuple[np.ndarray]:
        return (X.max(axis=tuple(range(2, X.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):
    """onnx has none."""

    def _run(self, X: np.ndarray, p: int = 2) -> tuple[np.ndarray]:
        return ((np.abs(X) ** p).sum(axis=tuple(range(2, X.ndim)), keepdims=True) ** (1 / p),)


class LpNormalization(OpRun):
    """onnx's own takes no absolute values."""

    def _run(self, X: np.ndarray, axis: int = -1, p: int = 2) -> tuple[np.ndarray]:
        return (X / (np.abs(X) ** p).sum(axis=axis, keepdims=True) ** (1 / p),)


class LRN(OpRun):
    """onnx's own computes in float."""

    def _run(
        self, X: np.ndarray, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int = 1
    ) -> tuple[np.ndarray]:
        sums = np.zeros_like(X)
        for c in range(X.shape[1]):
            around = slice(max(0, c - (size - 1) // 2), c + math.ceil((size - 1) / 2) + 1)
            sums[:, c] = (X[:, around] ** 2).sum(axis=1)
        return (X / (bias + alpha / size * sums) ** beta,)


class GridSample(OpRun):
    """onnx's own rounds; of images, and without cubic interpolation or reflection."""

    def _run(
        self, X: np.ndarray, grid: np.ndarray, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
    ) -> tuple[np.ndarray]:
        result = np.zeros((*X.shape[:2], *grid.shape[1:3]), X.dtype)
        for n, i, j in np.ndindex(grid.shape[:3]):
            shares = []
            for size, at in zip(X.shape[2:], grid[n, i, j, ::-1], strict=True):
                place = (at + 1) / 2 * (size - 1) if align_corners else ((at + 1) * size - 1) / 2
                place = np.clip(place, 0, size - 1) if padding_mode == "border" else place
                low = np.rint(place) if mode == "nearest" else np.floor(place)
                both = ((low, 1.0),) if mode == "nearest" else ((low, 1 - (place - low)), (low + 1, place - low))
                shares.append([(int(index), share) for index, share in both if 0 <= index < size])
            for (row, of_row), (column, of_column) in itertools.product(*shares):
                result[n, :, i, j] += of_row * of_column * X[n, :, row, column]
        return (result,)


class DeformConv(OpRun):
    """onnx's own rounds the places."""

    def _run(
        self,
        X: np.ndarray,
        W: np.ndarray,
        offset: np.ndarray,
        B: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        dilations: Any = None,
        group: int = 1,
        kernel_shape: Any = None,
        offset_group: int = 1,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[np.ndarray]:
        kernel, counts = W.shape[2:], offset.shape[2:]
        strides, dilations, pads = strides or [1, 1], dilations or [1, 1], pads or [0] * 4
        moved = offset.reshape(len(X), offset_group, *kernel, 2, *counts)
        shares = np.ones(moved[..., 0, :, :].shape) if mask is None else mask.reshape(moved[..., 0, :, :].shape)
        sampled = np.empty((*X.shape[:2], *kernel, *counts), X.dtype)
        for image, channel, row, column in np.ndindex(*sampled.shape[:4]):
            field = (image, channel * offset_group // X.shape[1], row, column)
            y = np.arange(counts[0])[:, None] * strides[0] + row * dilations[0] - pads[0] + moved[field][0]
            x = np.arange(counts[1]) * strides[1] + column * dilations[1] - pads[1] + moved[field][1]
            sampled[image, channel, row, column] = _between(X[image, channel], y, x) * shares[field]
        grouped = sampled.reshape(len(X), group, -1, *sampled.shape[2:])
        result = np.einsum("ngcabij,gocab->ngoij", grouped, W.reshape(group, -1, *W.shape[1:]))
        result = result.reshape(len(X), len(W), *counts)
        return (result if B is None else result + B.reshape(-1, 1, 1),)


def _between(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What an image with zeros around it is at points between its elements."""
    result = np.zeros(np.broadcast_shapes(y.shape, x.shape))
    for row, column in itertools.product((np.floor(y), np.floor(y) + 1), (np.floor(x), np.floor(x) + 1)):
        inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
        places = tuple(np.where(inside, each, 0).astype(int) for each in (row, column))
        result += inside * (1 - abs(y - row)) * (1 - abs(x - column)) * image[places]
    return result


class NegativeLogLikelihoodLoss(OpRun):
    """onnx's own does not run with newer numpy."""

    def _run(
        self,
        X: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> tuple[np.ndarray]:
        kept = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
        safe = np.where(kept, labels, 0)
        weight = kept * (1.0 if weights is None else weights[safe])
        loss = -weight * np.take_along_axis(X, safe[:, None], 1)[:, 0]
        if reduction == "none":
            return (loss,)
        return (np.asarray(loss.sum() if reduction == "sum" else loss.sum() / weight.sum()),)


class SoftmaxCrossEntropyLoss(NegativeLogLikelihoodLoss):
    """onnx's own does not run with newer numpy."""

    def _run(self, X: np.ndarray, *inputs: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:
        shifted = X - X.max(axis=1, keepdims=True)
        log_prob = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        (loss,) = super()._run(log_prob, *inputs, **attributes)
        return (loss, log_prob)[: len(self.onnx_node.output)]


EXACT_OPS = [
    *(Erf, Gelu, GatherElements, Pad, Conv, ConvTranspose, MaxPool, GlobalMaxPool, GlobalLpPool, LpNormalization, LRN),
    *(GridSample, DeformConv, NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss),
]
