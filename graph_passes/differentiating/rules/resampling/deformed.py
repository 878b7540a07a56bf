"""Gradient rules of deformable convolutions, in which every element of a window has its own offset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.windows import of_windows
from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.differentiating.between import Sampling, neighbours
from onnx_cbp.graph_passes.differentiating.builder import Builder
from onnx_cbp.graph_passes.differentiating.registry import InputGradient, rule

_IMAGES = 4  # axes


@rule("DeformConv")
def deform_conv(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """DeformConv: the product of the weight and the samples, each of which is multiplied by its mask.

        Y = W (mask * S),  dW = dY (mask * S)^T,  dS = mask * W^T dY,  d mask = sum over channels of S * W^T dY

    S is sampled between the elements of X, at the places of a window's elements plus their offsets.
    """
    X, W, offset, B, mask = (optional_input(node, index) for index in range(5))
    if g.rank(X) != _IMAGES:
        raise g.refuse(f"X has {g.rank(X)} axes, and images of {_IMAGES} are supported")
    channels, height, width = g.fixed(X, [1, 2, 3])
    outputs, _, *kernel = g.fixed(W, range(4))
    counts = g.fixed(node.outputs[0], [2, 3])
    groups, fields = attribute(node, "group", 1), attribute(node, "offset_group", 1)
    elements, windows = kernel[0] * kernel[1], counts[0] * counts[1]
    own = channels // fields  # channels that share their offsets

    y, x = _places(g, node, offset, kernel, counts)
    image = g.Reshape(X, [-1, own, height * width])
    sampling = Sampling(image, neighbours(g, X, y, height), neighbours(g, X, x, width), width)
    weight = g.Reshape(W, [1, groups, outputs // groups, channels // groups * elements])
    d_products = g.Reshape(dY, [-1, groups, outputs // groups, windows])
    d_columns = g.MatMul(g.Transpose(weight, perm=[0, 1, 3, 2]), d_products)
    d_masked = g.Reshape(d_columns, [-1, own, elements * windows])
    shares = None if mask is None else g.Reshape(mask, [-1, 1, elements * windows])
    d_sampled = d_masked if shares is None else g.Mul(d_masked, shares)
    sampled = sampling.values(g, d_sampled)
    masked = sampled if shares is None else g.Mul(sampled, shares)
    columns = g.Reshape(masked, [-1, groups, channels // groups * elements, windows])
    dW = g.sum(g.MatMul(d_products, g.Transpose(columns, perm=[0, 1, 3, 2])), [0])
    dX = g.reshape_like(sampling.by_image(g, d_sampled), X)
    by_x, by_y = (g.Reshape(each, [-1, elements, 1, windows]) for each in sampling.by_points(g, d_sampled))
    d_offset = g.reshape_like(g.Concat(by_y, by_x, axis=2), offset)
    dB = None if B is None else g.reduce("ReduceSum", dY, [0, 2, 3], keepdims=0, like=B)
    d_mask = None if mask is None else g.reshape_like(g.sum(g.Mul(d_masked, sampled), [1]), mask)
    return [dX, g.reshape_like(dW, W), d_offset, dB, d_mask]


def _places(
    g: Builder, node: ir.Node, offset: ir.Value | None, kernel: Sequence[int], counts: Sequence[int]
) -> list[ir.Value]:
    """The row and the column of each element of each window, [images * fields, 1, elements * windows]."""
    strides, dilations, pads = (of_windows(node, name, 2) for name in ("strides", "dilations", "pads"))
    both = g.Reshape(offset, [-1, kernel[0] * kernel[1], 2, counts[0] * counts[1]])
    result = []
    for axis in range(2):
        element = np.arange(kernel[axis]) * dilations[axis] - pads[axis]
        window = np.arange(counts[axis]) * strides[axis]
        start = np.zeros([*kernel, *counts])
        start += element.reshape([-1 if i == axis else 1 for i in range(4)])
        start += window.reshape([-1 if i == axis + 2 else 1 for i in range(4)])
        dtype = g.dtype(offset)
        moved = g.Reshape(g.Gather(both, np.array(axis, np.int64), axis=2), [-1, 1, start.size])
        result.append(g.Add(moved, g.constant(start.reshape(1, 1, -1).astype(dtype.numpy()), dtype)))
    return result
