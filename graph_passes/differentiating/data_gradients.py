"""The gradient of a convolution's data, in the form that is fastest for its shape.

Every window adds W times its dY to the elements that it has seen: this is ConvTranspose. With strides of 1 it is also a
convolution of dY by W, with W's channels exchanged and its elements in reverse order. ONNX Runtime's Conv is faster
than its ConvTranspose for windows of one element, for many channels (1.3 times with 256), and for depthwise
convolutions, where Conv uses all cores and ConvTranspose one. If ops of ours may be written, one of them is faster than
both (`direct_conv`).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.differentiating import direct_conv
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.windows import Windows

_MANY_CHANNELS = 64


def data_gradient(g: Builder, dY: ir.Value, W: Read, seen: Windows, groups: int, like: Read) -> ir.Value:
    """The gradient of the data [N, C, ...], from that of windows, dY [N, O, ...]; `like` is the data."""
    channels = g.shape(W)[:2]
    many = groups == 1 and all(isinstance(size, int) and size >= _MANY_CHANNELS for size in channels)
    single = groups == 1 and all(k == 1 for k in seen.kernel)
    depthwise = groups > 1 and channels[1] == 1 and isinstance(channels[0], int)
    padding = [e - 1 - p for e, p in zip(seen.extent * 2, seen.pads, strict=True)]
    is_convolution = all(s == 1 for s in seen.strides) and min(padding) >= 0 and not any(seen.rest)
    if groups == 1 and is_convolution and direct_conv.fits(g, dY, seen, channels=channels[0], outputs=channels[1]):
        return g.let_be_like(direct_conv.by_own_op(g, "DirectConvExchanged", dY, W, seen, padding), like)
    if (single or many or depthwise) and is_convolution:
        exchanged, dilations = _exchanged(g, W, seen, groups), list(seen.dilations)
        return g.Conv(dY, exchanged, pads=padding, dilations=dilations, group=groups, like=like)
    return transposed(g, dY, W, seen, groups, like)


def transposed(g: Builder, dY: ir.Value, W: Read, seen: Windows, groups: int, like: Read) -> ir.Value:
    """The same by ConvTranspose, for any strides and groups."""
    if seen.loose:  # as large as any size could need; the rest is cut off
        whole = g.ConvTranspose(
            dY,
            W,
            group=groups,
            strides=list(seen.strides),
            dilations=list(seen.dilations),
            pads=seen.pads,
            output_padding=[s - 1 for s in seen.strides],
        )
        axes = list(seen.axes)
        return g.Slice(whole, [0] * len(axes), g.sizes_of(like, axes), axes, like=like)
    return g.ConvTranspose(
        dY,
        W,
        group=groups,
        strides=list(seen.strides),
        dilations=list(seen.dilations),
        pads=[*seen.before, *(a - min(r, 0) for a, r in zip(seen.after, seen.rest, strict=True))],
        output_padding=[max(r, 0) for r in seen.rest],
        like=like,
    )


def _exchanged(g: Builder, W: Read, seen: Windows, groups: int) -> ir.Value:
    """W as [C, O, k...], with its elements in reverse along all axes of space: reversed as one flat axis.

    W [C * m, 1, k...] of a depthwise convolution becomes [C, m, k...].
    """
    rank = len(seen.kernel)
    places = math.prod(seen.kernel)
    if groups > 1:
        filters, channels = g.fixed(W, [0])[0] // groups, groups
        flat = g.Reshape(W, [channels, filters, places])
    else:
        swapped = g.Transpose(W, perm=[1, 0, *range(2, rank + 2)])
        if places == 1:
            return swapped
        filters, channels = g.fixed(W, [0, 1])
        flat = g.Reshape(swapped, [channels, filters, places])
    if places > 1:
        flat = g.Slice(flat, [-1], [np.iinfo(np.int64).min], [2], [-1])
    return g.Reshape(flat, [channels, filters, *seen.kernel])
