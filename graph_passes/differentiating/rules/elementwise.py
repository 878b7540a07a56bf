"""Gradient rules of elementwise arithmetic, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.differentiating.builder import Builder
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, flat, rule
from onnx_cbp.graph_passes.differentiating.rules.masks import passing

flat("Ceil", "Floor", "Round", "Sign")


@rule("Identity")
def identity(_builder: Builder, _node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Identity: dX = dY."""
    return [dY]


@rule("Add")
def add(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Add: dA = dY, dB = dY."""
    A, B = node.inputs
    return [g.unbroadcast(dY, A), g.unbroadcast(dY, B)]


@rule("Sub")
def sub(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Sub: dA = dY, dB = -dY."""
    A, B = node.inputs
    return [g.unbroadcast(dY, A), g.Neg(g.unbroadcast(dY, B))]


@rule("Mul")
def mul(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Mul: dA = dY B, dB = dY A."""
    A, B = node.inputs
    return [g.unbroadcast(g.Mul(dY, B), A), g.unbroadcast(g.Mul(dY, A), B)]


@rule("Div")
def div(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Div: dA = dY / B, dB = -dA Y."""
    A, B = node.inputs
    dA = g.Div(dY, B)
    return [g.unbroadcast(dA, A), g.Neg(g.unbroadcast(g.Mul(dA, node.outputs[0]), B))]


@rule("Sum")
def sum_(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Sum: every input has dY."""
    return [g.unbroadcast(dY, X) for X in node.inputs]


@rule("Mean")
def mean(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Mean: each of K inputs has dY / K."""
    share = g.Div(dY, len(node.inputs))
    return [g.unbroadcast(share, X) for X in node.inputs]


@rule("Max", "Min")
def extreme(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Max, Min: equal elements share the gradient, as in PyTorch's maximum and JAX."""
    Y = node.outputs[0]
    chosen = [g.Equal(X, Y) for X in node.inputs]
    share = dY if len(chosen) == 1 else g.Div(dY, g.Sum(*(g.Cast(each, to=g.dtype(Y).value) for each in chosen)))
    return [g.unbroadcast(passing(g, share, each, Y), X) for each, X in zip(chosen, node.inputs, strict=True)]


@rule("Pow")
def power(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Pow: the exponent may have another type; it has a gradient where the base is positive."""
    X, exponent = node.inputs
    known = g.known(exponent)
    same = exponent if g.dtype(exponent) == g.dtype(X) else g.Cast(exponent, to=g.dtype(X).value)
    if known is not None and known.size == 1 and float(known.reshape(-1)[0]) == 2.0:
        dX = g.Mul(dY, g.Add(X, X))
    elif known is not None and known.size == 1 and float(known.reshape(-1)[0]) == 1.0:
        dX = dY
    else:
        below = g.Pow(X, g.Sub(same, 1.0))
        # Avoids 0 * inf: a power with exponent 0 does not depend on its base.
        dX = g.Mul(dY, g.Where(g.Equal(same, 0.0), g.scalar(0, X), g.Mul(same, below)))
    d_exponent: InputGradient = None
    if g.wants(exponent) and g.dtype(exponent).is_floating_point():
        positive = g.Greater(X, 0.0)
        logarithm = g.Where(positive, g.Log(g.Where(positive, X, g.scalar(1, X))), g.scalar(0, X))
        d_exponent = g.unbroadcast(g.Mul(dY, g.Mul(node.outputs[0], logarithm)), exponent)
        if g.dtype(exponent) != g.dtype(X):
            d_exponent = g.Cast(d_exponent, to=g.dtype(exponent).value)
    return [g.unbroadcast(dX, X), d_exponent]


@rule("Mod")
def mod(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Mod: A - B * trunc(A / B) (fmod = 1, the only form for floating point)."""
    A, B = node.inputs
    quotient = g.Div(g.Sub(A, node.outputs[0]), B)
    return [g.unbroadcast(dY, A), g.Neg(g.unbroadcast(g.Mul(dY, quotient), B))]


@rule("Neg")
def neg(g: Builder, _node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Neg: dX = -dY."""
    return [g.Neg(dY)]


@rule("Abs")
def absolute(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Abs: dX = dY sign(X)."""
    return [g.Mul(dY, g.Sign(node.inputs[0]))]


@rule("Reciprocal")
def reciprocal(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Reciprocal: dX = -dY Y^2."""
    Y = node.outputs[0]
    return [g.Neg(g.Mul(dY, g.Mul(Y, Y)))]


@rule("Sqrt")
def sqrt(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Sqrt: dX = dY / (2 Y)."""
    return [g.Div(g.Mul(dY, 0.5), node.outputs[0])]


@rule("Exp")
def exp(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Exp: dX = dY Y."""
    return [g.Mul(dY, node.outputs[0])]


@rule("Log")
def log(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Log: dX = dY / X."""
    return [g.Div(dY, node.inputs[0])]


@rule("Erf")
def erf(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Erf: dX = dY exp(-X^2) 2 / sqrt(pi)."""
    X = node.inputs[0]
    return [g.Mul(dY, g.Mul(g.Exp(g.Neg(g.Mul(X, X))), 2 / math.sqrt(math.pi)))]


@rule("Sin")
def sin(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Sin: dX = dY cos(X)."""
    return [g.Mul(dY, g.Cos(node.inputs[0]))]


@rule("Cos")
def cos(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Cos: dX = -dY sin(X)."""
    return [g.Neg(g.Mul(dY, g.Sin(node.inputs[0])))]


@rule("Tan")
def tan(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Tan: dX = dY (1 + Y^2)."""
    Y = node.outputs[0]
    return [g.Mul(dY, g.Add(g.Mul(Y, Y), 1.0))]


@rule("Asin")
def asin(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Asin: dX = dY / sqrt(1 - X^2)."""
    X = node.inputs[0]
    return [g.Div(dY, g.Sqrt(g.Sub(g.scalar(1, X), g.Mul(X, X))))]


@rule("Acos")
def acos(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Acos: dX = -dY / sqrt(1 - X^2)."""
    X = node.inputs[0]
    return [g.Neg(g.Div(dY, g.Sqrt(g.Sub(g.scalar(1, X), g.Mul(X, X)))))]


@rule("Atan")
def atan(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Atan: dX = dY / (1 + X^2)."""
    X = node.inputs[0]
    return [g.Div(dY, g.Add(g.Mul(X, X), 1.0))]


@rule("Sinh")
def sinh(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Sinh: dX = dY cosh(X)."""
    return [g.Mul(dY, g.Cosh(node.inputs[0]))]


@rule("Cosh")
def cosh(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Cosh: dX = dY sinh(X)."""
    return [g.Mul(dY, g.Sinh(node.inputs[0]))]


@rule("Asinh")
def asinh(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Asinh: dX = dY / sqrt(X^2 + 1)."""
    X = node.inputs[0]
    return [g.Div(dY, g.Sqrt(g.Add(g.Mul(X, X), 1.0)))]


@rule("Acosh")
def acosh(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Acosh: dX = dY / sqrt(X^2 - 1)."""
    X = node.inputs[0]
    return [g.Div(dY, g.Sqrt(g.Sub(g.Mul(X, X), 1.0)))]


@rule("Atanh")
def atanh(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Atanh: dX = dY / (1 - X^2)."""
    X = node.inputs[0]
    return [g.Div(dY, g.Sub(g.scalar(1, X), g.Mul(X, X)))]


@rule("Cast", "CastLike")
def cast(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Cast: dX = dY, in the type of X."""
    X = node.inputs[0]
    return [dY if g.dtype(X) == g.dtype(dY) else g.Cast(dY, to=g.dtype(X).value), ZERO]


@rule("Where")
def where(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Where: each element of dY goes to the input from which the element of Y came."""
    condition, X, Y = node.inputs
    zero = g.scalar(0, dY)
    return [None, g.unbroadcast(g.Where(condition, dY, zero), X), g.unbroadcast(g.Where(condition, zero, dY), Y)]


@rule("Clip")
def clip(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Clip: dY goes to X where X is within the bounds, and otherwise to the bound.

    At a bound X has the gradient, as in PyTorch's clamp. With the bounds 0 and 6 it has not: this is PyTorch's ReLU6.
    """
    X, low, high = node.inputs[0], optional_input(node, 1), optional_input(node, 2)
    Y = node.outputs[0]
    bounds = [None if known is None else known.tolist() for known in (g.known(low), g.known(high))]
    if bounds == [0, 6]:
        inside = g.And(g.Greater(Y, 0.0), g.Less(Y, high))
        return [passing(g, dY, inside, Y)]
    zero, inside, above = g.scalar(0, X), g.Equal(X, Y), X
    is_low = None if low is None else g.Less(X, low)
    if is_low is not None and high is not None and not _is_in_order(bounds):
        # Where low > high, every Y is high: Min(Max(X, low), high).
        inside, above = g.And(inside, g.Not(is_low)), g.Max(X, low)
        is_low = g.And(is_low, g.Not(g.Greater(low, high)))  # onnx 1.16 infers no type for LessOrEqual
    d_low = None if is_low is None else g.unbroadcast(g.Where(is_low, dY, zero), low)
    d_high = None if high is None else g.unbroadcast(g.Where(g.Greater(above, high), dY, zero), high)
    return [passing(g, dY, inside, Y), d_low, d_high]


def _is_in_order(bounds: Sequence[Any]) -> bool:
    """Whether two bounds are numbers, and the first is not above the second."""
    low, high = bounds
    return isinstance(low, float) and isinstance(high, float) and low <= high


@rule("CumSum")
def cumulative_sum(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """CumSum: the gradient is a cumulative sum from the other end."""
    reverse, exclusive = attribute(node, "reverse", 0), attribute(node, "exclusive", 0)
    return [g.CumSum(dY, node.inputs[1], reverse=int(not reverse), exclusive=exclusive)]
