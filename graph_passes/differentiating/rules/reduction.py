"""Gradient rules of reductions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.differentiating.attributes import ints
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import InputGradient, rule

_FEW_FACTORS = 32


def _axes(g: Builder, node: ir.Node) -> list[int]:
    """The axes of a reduction, counted from the front."""
    X, given = node.inputs[0], optional_input(node, 1)
    axes = ints(node, "axes", []) if given is None else g.needed(given, "what names its axes,").reshape(-1).tolist()
    rank = g.rank(X)
    if not axes:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in axes)


def _spread(g: Builder, node: ir.Node, value: ir.Value, axes: list[int]) -> ir.Value:
    """A result, or its gradient, in a shape that broadcasts over the reduced axes."""
    if attribute(node, "keepdims", 1) or not axes:
        return value
    return g.Unsqueeze(value, axes)


@rule("ReduceSum")
def reduce_sum(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceSum: dX = dY."""
    X = node.inputs[0]
    if attribute(node, "keepdims", 1):  # works for any axes, even axes that are known only at run time
        return [g.expand_like(dY, X)]
    return [g.expand_like(_spread(g, node, dY, _axes(g, node)), X)]


@rule("ReduceMean")
def reduce_mean(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceMean: dX = dY / count."""
    X, axes = node.inputs[0], _axes(g, node)
    return [g.expand_like(_spread(g, node, g.divided_by_count(dY, X, axes), axes), X)]


@rule("ReduceSumSquare")
def reduce_sum_square(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceSumSquare: dX = 2 dY X."""
    return [g.Mul(_spread(g, node, g.Mul(dY, 2.0), _axes(g, node)), node.inputs[0])]


@rule("ReduceL1")
def reduce_l1(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceL1: dX = dY sign(X)."""
    return [g.Mul(_spread(g, node, dY, _axes(g, node)), g.Sign(node.inputs[0]))]


@rule("ReduceL2")
def reduce_l2(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceL2: dX = dY X / Y; zero where Y is zero, as in PyTorch."""
    Y = node.outputs[0]
    share = g.Where(g.Equal(Y, 0.0), g.scalar(0, Y), g.Div(dY, Y))
    return [g.Mul(_spread(g, node, share, _axes(g, node)), node.inputs[0])]


@rule("ReduceLogSum")
def reduce_log_sum(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceLogSum: dX = dY / exp(Y)."""
    share = g.Mul(dY, g.Exp(g.Neg(node.outputs[0])))
    return [g.expand_like(_spread(g, node, share, _axes(g, node)), node.inputs[0])]


@rule("ReduceLogSumExp")
def reduce_log_sum_exp(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceLogSumExp: dX = dY exp(X - Y)."""
    axes = _axes(g, node)
    Y = _spread(g, node, node.outputs[0], axes)
    return [g.Mul(_spread(g, node, dY, axes), g.Exp(g.Sub(node.inputs[0], Y)))]


@rule("ReduceMax", "ReduceMin")
def reduce_extreme(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceMax, ReduceMin: equal elements share dY, as in PyTorch's amax and amin."""
    X, axes = node.inputs[0], _axes(g, node)
    chosen = g.Cast(g.Equal(X, _spread(g, node, node.outputs[0], axes)), to=g.dtype(X).value)
    return [g.Mul(chosen, g.Div(_spread(g, node, dY, axes), g.sum(chosen, axes)))]


@rule("ReduceProd")
def reduce_prod(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ReduceProd: dX = dY times the product of all others, also where elements are zero.

    Of a few elements along one axis it is written so, and can be differentiated again. Of many it is the product of all
    divided by each; if one of them is zero, only that one has a gradient, and if two are, none has.
    """
    X, axes = node.inputs[0], _axes(g, node)
    size = g.shape(X)[axes[0]] if len(axes) == 1 else None
    if isinstance(size, int) and size <= _FEW_FACTORS:
        others = _products_of_others(g, X, axes[0], size)
        return [g.Mul(_spread(g, node, dY, axes), others, like=X)]
    is_zero = g.Equal(X, 0.0)
    nonzero = g.Where(is_zero, g.scalar(1, X), X)
    zeros = g.sum(g.Cast(is_zero, to=g.dtype(X).value), axes)
    product = g.reduce("ReduceProd", nonzero, axes)
    alone = g.Where(g.Equal(zeros, 1.0), product, g.scalar(0, X))
    others = g.Where(is_zero, alone, g.Where(g.Equal(zeros, 0.0), g.Div(product, nonzero), g.scalar(0, X)))
    return [g.Mul(_spread(g, node, dY, axes), others)]


def _products_of_others(g: Builder, X: Read, axis: int, size: int) -> ir.Value:
    """For each element along an axis the product of the others: of a matrix of them, with 1 in its own place."""
    rank = g.rank(X)
    own = np.eye(size, dtype=bool).reshape([size if i in (axis, axis + 1) else 1 for i in range(rank + 1)])
    rows = g.Where(own, g.scalar(1, X), g.Unsqueeze(X, [axis]))
    return g.reduce("ReduceProd", rows, [axis + 1], keepdims=0, like=X)
