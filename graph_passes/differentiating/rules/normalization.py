"""Gradient rules of normalisations: over axes of one sample, and ONNX's BatchNormalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input, optional_output
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule

_SCALED_BY_CHANNEL_SINCE = 21  # GroupNormalization
_MOST_AROUND = 2**12


def _normal(g: Builder, X: Read, axes: Sequence[int], epsilon: float) -> tuple[ir.Value, ir.Value]:
    """X normalized over some axes, and the factor by which it was multiplied."""
    centred = g.Sub(X, g.reduce("ReduceMean", g.there(X), axes))
    variance = g.reduce("ReduceMean", g.Mul(centred, centred), axes)
    inv_std = g.Reciprocal(g.Sqrt(g.Add(variance, epsilon)))
    return g.Mul(centred, inv_std), inv_std


def _through(g: Builder, dN: ir.Value, normal: ir.Value, inv_std: ir.Value, axes: Sequence[int]) -> ir.Value:
    """DX = inv_std (dN - mean(dN) - normal mean(dN normal))."""
    slope = g.reduce("ReduceMean", g.Mul(dN, normal), axes)
    return g.Mul(inv_std, g.Sub(g.Sub(dN, g.reduce("ReduceMean", dN, axes)), g.Mul(normal, slope)))


@rule("LayerNormalization")
def layer_normalization(
    g: Builder,
    node: ir.Node,
    dY: ir.Value | None,
    d_mean: ir.Value | None = None,
    d_inv_std: ir.Value | None = None,
) -> list[InputGradient]:
    """LayerNormalization: Y = scale normal + B over the last axes, computed in the type given by stash_type.

    Mean and InvStdDev have gradients, too: those of dX read them.
    """
    X, scale = node.inputs[0], node.inputs[1]
    dY = g.zeros_like(node.outputs[0]) if dY is None else dY
    axes = list(range(attribute(node, "axis", -1) % g.rank(X), g.rank(X)))
    wide = g.dtype(X) in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    data, d_data = (each if wide else g.Cast(each, to=1) for each in (X, dY))
    if g.dtype(X) == ir.DataType.FLOAT:  # saved by the forward pass; for double it would be rounded
        mean, inv_std = (g.output(node, i, ir.DataType.FLOAT, _reduced(g, X, axes)) for i in (1, 2))
        normal = g.Mul(g.Sub(data, mean), inv_std)
    else:
        normal, inv_std = _normal(g, data, axes, attribute(node, "epsilon", 1e-5))
    dN = g.Mul(d_data, scale if wide else g.Cast(scale, to=1))
    dX = _through(g, dN, normal, inv_std, axes)
    if d_mean is not None:
        dX = g.Add(dX, g.divided_by_count(g.as_type(d_mean, g.dtype(data)), X, axes))
    if d_inv_std is not None:  # 1 / sqrt(mean((X - mean)^2) + epsilon)
        slope = g.Mul(g.as_type(d_inv_std, g.dtype(data)), g.Mul(inv_std, inv_std))
        dX = g.Sub(dX, g.Mul(g.divided_by_count(slope, X, axes), normal))
    answers: list[ir.Value] = [dX, g.unbroadcast(g.Mul(d_data, normal), scale)]
    B = optional_input(node, 2)
    if B is not None:
        answers.append(g.unbroadcast(g.there(d_data), B))
    return [each if wide else g.Cast(each, to=g.dtype(X).value) for each in answers]


def _reduced(g: Builder, X: Read, axes: Sequence[int]) -> tuple[int | str | None, ...]:
    return tuple(1 if axis in axes else size for axis, size in enumerate(g.shape(X)))


@rule("RMSNormalization")
def rms_normalization(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """RMSNormalization: Y = scale X inv with inv = 1 / sqrt(mean(X^2) + epsilon)."""
    X, scale = node.inputs[0], node.inputs[1]
    axes = list(range(attribute(node, "axis", -1) % g.rank(X), g.rank(X)))
    square = g.reduce("ReduceMean", g.Mul(X, X), axes)
    inv = g.Reciprocal(g.Sqrt(g.Add(square, attribute(node, "epsilon", 1e-5))))
    normal, dN = g.Mul(X, inv), g.Mul(dY, scale)
    slope = g.reduce("ReduceMean", g.Mul(dN, normal), axes)
    return [g.Mul(inv, g.Sub(dN, g.Mul(normal, slope))), g.unbroadcast(g.Mul(dY, normal), scale)]


@rule("InstanceNormalization")
def instance_normalization(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """InstanceNormalization: Y = scale normal + B over space, scale and B by channel."""
    X, scale = node.inputs[0], node.inputs[1]
    axes = list(range(2, g.rank(X)))
    normal, inv_std = _normal(g, X, axes, attribute(node, "epsilon", 1e-5))
    dX = _through(g, g.Mul(dY, g.column(scale, 1, g.rank(X))), normal, inv_std, axes)
    return [dX, g.sum(g.Mul(dY, normal), [0, *axes], keepdims=0), g.sum(dY, [0, *axes], keepdims=0)]


@rule("GroupNormalization")
def group_normalization(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """GroupNormalization: Y = scale normal + B over space and the channels of a group.

    Scale and B are by channel; before opset 21 by group.
    """
    X, scale, B = node.inputs
    groups, rank = attribute(node, "num_groups", 1), g.rank(X)
    (channels,) = g.fixed(X, [1])
    if groups < 1 or channels % groups:
        raise g.refuse(f"it has {channels} channels in {groups} groups, expected groups of one size")
    by_channel = g.opset >= _SCALED_BY_CHANNEL_SINCE
    space = list(range(2, rank))
    apart = g.joined([g.sizes_of(X, [0]), [groups, channels // groups], g.sizes_of(X, space)])
    shape = (g.shape(X)[0], groups, channels // groups, *g.shape(X)[2:])
    axes = list(range(2, rank + 1))
    grouped, d_grouped = (g.Reshape(each, apart, shape=shape) for each in (X, dY))
    normal, inv_std = _normal(g, grouped, axes, attribute(node, "epsilon", 1e-5))
    factor = g.Reshape(scale, [1, groups, channels // groups if by_channel else 1, *[1] * len(space)])
    dX = _through(g, g.Mul(d_grouped, factor), normal, inv_std, axes)
    summed = [0, *axes[1:]] if by_channel else [0, *axes]
    d_scale, d_bias = (g.sum(each, summed, keepdims=0) for each in (g.Mul(d_grouped, normal), d_grouped))
    return [g.reshape_like(dX, X), g.reshape_like(d_scale, scale), g.reshape_like(d_bias, B)]


@rule("LpNormalization")
def lp_normalization(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """LpNormalization: Y = X / norm: dX = (dY - slope sum(dY Y)) / norm; slope is Y, or sign(X) with p = 1."""
    X, Y, axis = node.inputs[0], node.outputs[0], attribute(node, "axis", -1)
    first = attribute(node, "p", 2) == 1
    norm = g.sum(g.Abs(X), [axis]) if first else g.Sqrt(g.sum(g.Mul(X, X), [axis]))
    slope = g.Sign(X) if first else Y
    safe = g.Where(g.Equal(norm, 0.0), g.scalar(1, X), norm)
    return [g.Div(g.Sub(dY, g.Mul(slope, g.sum(g.Mul(dY, Y), [axis]))), safe)]


@rule("LRN")
def local_response_normalization(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """LRN: Y = X U^-beta with U = bias + alpha / size times the sum of X^2 over `size` channels around each.

    dX = dY U^-beta - 2 alpha beta / size X times the sum of dY X U^(-beta - 1) over the channels around.
    """
    X, size = node.inputs[0], attribute(node, "size", 1)
    alpha, beta, bias = attribute(node, "alpha", 1e-4), attribute(node, "beta", 0.75), attribute(node, "bias", 1.0)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    U = g.Add(g.Mul(_around(g, g.Mul(X, X), before, after), alpha / size), bias)
    power = g.Pow(U, -beta)
    through = _around(g, g.Mul(dY, g.Mul(X, g.Div(power, U))), after, before)
    return [g.Sub(g.Mul(dY, power), g.Mul(g.Mul(X, through), 2 * alpha * beta / size))]


def _around(g: Builder, X: ir.Value, before: int, after: int) -> ir.Value:
    """For each channel, the sum over the channels from `before` before it to `after` after it."""
    rest = [0] * (g.rank(X) - 2)
    (channels,) = g.fixed(X, [1])
    before, after = min(before, channels), min(after, channels)  # what is further away is padding
    if before + after > _MOST_AROUND:
        raise g.refuse(f"it sums over {before + after + 1} channels, and its gradient needs a node for each")
    padded = g.Pad(X, [0, before, *rest, 0, after, *rest])
    parts = [g.Slice(padded, [i], [i + channels], [1]) for i in range(before + after + 1)]
    return parts[0] if len(parts) == 1 else g.Sum(*parts)


@rule("BatchNormalization")
def batch_normalization(g: Builder, node: ir.Node, dY: ir.Value, *more: ir.Value | None) -> list[InputGradient]:
    """BatchNormalization, by our ops.

    With batch statistics, these are computed again; `ReplaceForwardPass` saves that. With running statistics (frozen),
    dX = dY scale inv_std, and the statistics have gradients too, if these are wanted.
    """
    X, scale, B, mean, var = node.inputs[:5]
    if any(each is not None for each in more):
        raise g.refuse("its running statistics reach the loss: they have no gradient")
    wide = ir.DataType.DOUBLE if g.dtype(scale) == ir.DataType.DOUBLE else ir.DataType.FLOAT
    epsilon, axes = attribute(node, "epsilon", 1e-5), {"axis": 1}
    gamma = g.as_type(scale, wide)
    if attribute(node, "training_mode", 0) or any(optional_output(node, i) is not None for i in range(1, 5)):
        stats = g.ours("ChannelStats", X, stash_type=wide.value, **axes)
        inv_std = _inv_std(g, stats[1], epsilon)
        results = g.ours("BatchNormGrad", dY, X, gamma, stats[0], inv_std, **axes)
        return [results[0], g.as_type(results[1], g.dtype(scale)), g.as_type(results[2], g.dtype(B)), ZERO, ZERO]
    centre, inv_std = g.as_type(mean, wide), _inv_std(g, g.as_type(var, wide), epsilon)
    slope = g.Mul(gamma, inv_std)
    dX = g.Mul(dY, g.column(g.as_type(slope, g.dtype(X)), 1, g.rank(X)))
    if not any(g.wants(each) for each in (scale, B, mean, var)):
        return [dX]
    d_scale, d_bias = g.ours("ChannelBackpropStats", X, centre, inv_std, dY, **axes)
    d_mean = g.Neg(g.Mul(d_bias, slope))
    d_var = g.Mul(g.Mul(d_scale, g.Mul(slope, inv_std)), -0.5)
    answers = zip((scale, B, mean, var), (d_scale, d_bias, d_mean, d_var), strict=True)
    return [dX, *(g.as_type(gradient, g.dtype(value)) for value, gradient in answers)]


def _inv_std(g: Builder, var: ir.Value, epsilon: float) -> ir.Value:
    return g.Reciprocal(g.Sqrt(g.Add(var, float(np.float32(epsilon)))))
