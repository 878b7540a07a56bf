"""ChannelNormalize: normalisation with given statistics."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator


def reference(
    X: np.ndarray,
    scale: np.ndarray,
    B: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    layout: Layout,
    epsilon: float,
) -> Arrays:
    """Compute Y, in float64: X as [outer, channels, inner], the others [C]."""
    column = layout.per_channel
    return (column(scale / np.sqrt(var + epsilon)) * (X - column(mean)) + column(B),)


def coefficients(opset: int) -> str:
    """Statements from scale and var to std and coefficient."""
    return f"""
    epsilon_float = Constant <value_float: float = @epsilon> ()
    {bodies.cast_like("epsilon_u", "epsilon_float", "var", opset)}
    shifted_var = Add (var, epsilon_u)
    std = Sqrt (shifted_var)
    coefficient = Div (scale, std)
"""


def of_deviations(opset: int) -> str:
    """Statements from what `channel_stats.statements` leave, scale and B to std and y_planes.

    They go on with the deviations that are there, for which B makes up for the rest of the mean: one pass less.
    """
    return (
        coefficients(opset)
        + """
    shift_of_rest = Mul (rest, coefficient)
    shift = Sub (B, shift_of_rest)
"""
        + bodies.per_channel("coefficient", "shift")
        + """
    scaled = Mul (deviations, coefficient_column)
    y_planes = Add (scaled, shift_column)
"""
    )


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + coefficients(opset)
        + bodies.per_channel("mean", "coefficient", "B")
        + f"""
    centred = Sub (X_planes, mean_column)
    scaled = Mul (centred, coefficient_column)
    y_planes = Add (scaled, B_column)
    {bodies.restore("Y", "y_planes", "X", opset)}
"""
    )


def gradient(g: Builder, node: Node, dY: Value) -> Gradients:
    """X has dY scale inv_std; the other gradients follow from the sums of ChannelBackpropStats."""
    X, scale, _, mean, var = node.inputs
    axis, epsilon = derivatives.axis_of(node), node.attributes["epsilon"].as_float()
    inv_std = g.Reciprocal(g.Sqrt(g.Add(var, epsilon)))
    slope = g.Mul(scale, inv_std)
    scale_grad, bias_grad = derivatives.of_sums(g, X, mean, inv_std, dY, axis)
    d_mean = g.Neg(g.Mul(slope, bias_grad))
    d_var = derivatives.of_inv_std(g, inv_std, g.Mul(g.Div(scale_grad, inv_std), scale))
    return [derivatives.times(g, dY, slope, axis), scale_grad, bias_grad, d_mean, d_var]


OPERATOR = Operator(
    name="ChannelNormalize",
    doc="""Normalises every channel of X with the given statistics:

    Y = scale * (X - mean) / sqrt(var + epsilon) + B""",
    inputs=(formals.X, formals.SCALE, formals.B, formals.MEAN, formals.VAR),
    outputs=(formals.Y,),
    attributes=(formals.AXIS, formals.EPSILON),
    reference=reference,
    body=_body,
    gradient=gradient,
)
