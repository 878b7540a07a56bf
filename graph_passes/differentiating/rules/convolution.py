"""Gradient rules of convolutions."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.core.windows import of_windows
from onnx_cbp.graph_passes.dialects._reading import optional_input
from onnx_cbp.graph_passes.differentiating.attributes import text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.data_gradients import data_gradient
from onnx_cbp.graph_passes.differentiating.registry import InputGradient, rule
from onnx_cbp.graph_passes.differentiating.weight_gradients import weight_gradient
from onnx_cbp.graph_passes.differentiating.windows import Windows, group, sizes, windows


@rule("Conv")
def conv(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Conv: dX is the transposed convolution of dY by W, dB the sum of dY over all axes but the channels."""
    X, W = node.inputs[0], node.inputs[1]
    seen = windows(g, node, X, node.outputs[0], g.fixed(W, range(2, g.rank(W))))
    dX = dW = None
    if g.wants(X):
        dX = data_gradient(g, dY, W, seen, group(node), X)
    if g.wants(W):
        dW = weight_gradient(g, X, dY, W, seen, group(node))
    return [dX, dW, _bias_gradient(g, node, dY)]


@rule("ConvTranspose")
def conv_transpose(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ConvTranspose: the transpose of Conv. So dX is the convolution of dY by W, and dW is that of dY by X."""
    X, W = node.inputs[0], node.inputs[1]
    seen = _transposed_windows(g, node, X, node.outputs[0], g.fixed(W, range(2, g.rank(W))))
    dX = dW = None
    if g.wants(X):
        after, data = [*seen.after], dY
        if not seen.loose:  # otherwise only output_padding is left over, which is less than a stride
            rest = [max(r - s + 1, 0) for r, s in zip(seen.rest, seen.strides, strict=True)]
            after = [a - r for a, r in zip(seen.after, rest, strict=True)]
        if any(a < 0 for a in after):  # ONNX Runtime does not accept negative padding
            ends = [n + min(a, 0) for n, a in zip(g.fixed(dY, seen.axes), after, strict=True)]
            data = g.Slice(dY, [0] * len(ends), ends, list(seen.axes))
        dX = g.Conv(
            data,
            W,
            group=group(node),
            strides=list(seen.strides),
            dilations=list(seen.dilations),
            pads=[*seen.before, *(max(a, 0) for a in after)],
            like=X,
        )
    if g.wants(W):
        dW = weight_gradient(g, dY, X, W, seen, group(node))
    return [dX, dW, _bias_gradient(g, node, dY)]


def _transposed_windows(g: Builder, node: ir.Node, X: Read, Y: Read, kernel: list[int]) -> Windows:
    """The windows on Y. The padding takes the result of all windows to the size of Y."""
    rank = len(kernel)
    size, count = sizes(g, Y, rank), sizes(g, X, rank)
    strides, dilations, extra, pads = (
        of_windows(node, name, rank) for name in ("strides", "dilations", "output_padding", "pads")
    )
    before, after = pads[:rank], pads[rank:]
    auto = text(node, "auto_pad", "NOTSET")
    if any(e >= s for e, s in zip(extra, strides, strict=True)):  # more than strides can leave over
        size, count = [*g.fixed(Y, range(2, 2 + rank))], [*g.fixed(X, range(2, 2 + rank))]
    if auto == "VALID":
        before = after = [0] * rank
    elif auto != "NOTSET" or "output_shape" in node.attributes:
        outer, inner = (g.fixed(value, range(2, 2 + rank)) for value in (Y, X))
        for i in range(rank):
            whole = (inner[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 + extra[i]
            total = max(whole - outer[i], 0)
            before[i] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after[i] = total - before[i]
    vectors = (tuple(each) for each in (kernel, strides, dilations, before, after))
    return Windows(tuple(size), tuple(count), *vectors)


def _bias_gradient(g: Builder, node: ir.Node, dY: ir.Value) -> InputGradient:
    B = optional_input(node, 2)
    return g.sum(dY, [0, *range(2, g.rank(dY))], keepdims=0) if g.wants(B) else None
