"""Gradient rules of activations."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.differentiating.attributes import text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule
from onnx_cbp.graph_passes.differentiating.rules.masks import passing


@rule("Relu")
def relu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Relu: dX = dY where Y is not zero, which a Cast tells faster than a comparison."""
    Y = node.outputs[0]
    return [passing(g, dY, g.Cast(Y, to=ir.DataType.BOOL.value), Y)]


@rule("LeakyRelu")
def leaky_relu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """LeakyRelu: dX = dY, times alpha where X is negative."""
    return [g.Mul(dY, _slope(g, g.Greater(node.inputs[0], 0.0), attribute(node, "alpha", 0.01), dY))]


@rule("PRelu")
def parametric_relu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """PRelu: dX = dY, times slope where X is negative; d slope = dY X there."""
    X, slope = node.inputs
    d_slope = g.Mul(dY, g.Min(X, 0.0))
    return [g.Mul(dY, _slope(g, g.Greater(X, 0.0), slope, dY)), g.unbroadcast(d_slope, slope)]


@rule("ThresholdedRelu")
def thresholded_relu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """ThresholdedRelu: dX = dY where X is above alpha."""
    return [passing(g, dY, g.Greater(node.inputs[0], attribute(node, "alpha", 1.0)), node.outputs[0])]


def _slope(g: Builder, is_one: ir.Value, below: Read | float, like: Read) -> ir.Value:
    """1 where `is_one` is true, else `below`: exact, and by arithmetic, see `passing`."""
    ones = g.Cast(is_one, to=g.dtype(like).value)
    if isinstance(below, float) and 0 <= below <= 1:
        return g.Max(ones, below)
    return g.Add(ones, g.Mul(g.Sub(g.scalar(1, like), ones), below))


@rule("Sigmoid")
def sigmoid(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Sigmoid: dX = dY Y (1 - Y)."""
    Y = node.outputs[0]
    return [g.Mul(dY, g.Mul(Y, g.Sub(g.scalar(1, Y), Y)))]


@rule("Tanh")
def tanh(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Tanh: dX = dY (1 - Y^2)."""
    Y = node.outputs[0]
    return [g.Mul(dY, g.Sub(g.scalar(1, Y), g.Mul(Y, Y)))]


@rule("Softplus")
def softplus(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Softplus: dX = dY sigmoid(X)."""
    return [g.Mul(dY, g.Sigmoid(node.inputs[0]))]


@rule("Softsign")
def softsign(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Softsign: dX = dY / (1 + |X|)^2."""
    below = g.Add(g.Abs(node.inputs[0]), 1.0)
    return [g.Div(dY, g.Mul(below, below))]


@rule("Elu")
def elu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Elu: dX = dY, times alpha exp(X) = Y + alpha where X is negative."""
    X, Y = node.inputs[0], node.outputs[0]
    return [g.Mul(dY, _slope(g, g.Greater(X, 0.0), g.Add(g.Min(Y, 0.0), attribute(node, "alpha", 1.0)), dY))]


@rule("Selu")
def selu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Selu: dX = dY gamma, times alpha exp(X), which is Y / gamma + alpha, where X is negative."""
    X, Y = node.inputs[0], node.outputs[0]
    alpha, gamma = (
        attribute(node, "alpha", 1.67326319217681884765625),
        attribute(node, "gamma", 1.05070102214813232421875),
    )
    below = g.Add(g.Div(g.Min(Y, 0.0), gamma), alpha)
    return [g.Mul(g.Mul(dY, gamma), _slope(g, g.Greater(X, 0.0), below, dY))]


@rule("Celu")
def celu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Celu: dX = dY, times exp(X / alpha) = Y / alpha + 1 where X is negative."""
    X, Y = node.inputs[0], node.outputs[0]
    below = g.Add(g.Div(g.Min(Y, 0.0), attribute(node, "alpha", 1.0)), 1.0)
    return [g.Mul(dY, _slope(g, g.Greater(X, 0.0), below, dY))]


@rule("HardSigmoid")
def hard_sigmoid(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """HardSigmoid: dX = alpha dY where Y is between 0 and 1, which is where Y (1 - Y) is not zero."""
    Y = node.outputs[0]
    inside = g.Cast(g.Mul(Y, g.Sub(g.scalar(1, Y), Y)), to=ir.DataType.BOOL.value)
    return [passing(g, g.Mul(dY, attribute(node, "alpha", 0.2)), inside, Y)]


@rule("HardSwish")
def hard_swish(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Y = X clip(X / 6 + 1/2, 0, 1): dX = dY times 0 below -3, X / 3 + 1/2 up to 3, 1 above."""
    X = node.inputs[0]
    middle = g.Add(g.Div(X, 3.0), 0.5)
    lower = g.Where(g.Greater(X, -3.0), middle, g.scalar(0, X))
    return [g.Mul(dY, g.Where(g.Less(X, 3.0), lower, g.scalar(1, X)))]


@rule("Swish")
def swish(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Y = X s with s = sigmoid(alpha X): dX = dY (s + alpha Y (1 - s))."""
    X, Y, alpha = node.inputs[0], node.outputs[0], attribute(node, "alpha", 1.0)
    s = g.Sigmoid(X if alpha == 1 else g.Mul(X, alpha))
    through = g.Mul(Y, g.Sub(g.scalar(1, s), s))
    return [g.Mul(dY, g.Add(s, through if alpha == 1 else g.Mul(through, alpha)))]


@rule("Mish")
def mish(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Y = X t with t = tanh(softplus(X)): dX = dY (t + X (1 - t^2) sigmoid(X))."""
    X = node.inputs[0]
    t = g.Tanh(g.Softplus(X))
    return [g.Mul(dY, g.Add(t, g.Mul(X, g.Mul(g.Sub(g.scalar(1, t), g.Mul(t, t)), g.Sigmoid(X)))))]


@rule("Gelu")
def gelu(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Y = X P(X), P the normal distribution or its approximation by tanh: dX = dY (P(X) + X P'(X))."""
    X = node.inputs[0]
    if text(node, "approximate", "none") == "tanh":
        c = math.sqrt(2 / math.pi)
        square = g.Mul(X, X)
        t = g.Tanh(g.Mul(X, g.Add(g.Mul(square, 0.044715 * c), c)))
        distribution = g.Add(g.Mul(t, 0.5), 0.5)
        slope = g.Mul(g.Sub(g.scalar(1, t), g.Mul(t, t)), g.Add(g.Mul(square, 1.5 * 0.044715 * c), 0.5 * c))
    else:
        distribution = g.Add(g.Mul(g.Erf(g.Mul(X, math.sqrt(0.5))), 0.5), 0.5)
        slope = g.Mul(g.Exp(g.Mul(g.Mul(X, X), -0.5)), 1 / math.sqrt(2 * math.pi))
    return [g.Mul(dY, g.Add(distribution, g.Mul(X, slope)))]


@rule("Softmax")
def softmax(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Softmax: dX = Y (dY - sum(dY Y))."""
    Y, axis = node.outputs[0], attribute(node, "axis", -1)
    product = g.Mul(dY, Y)
    return [g.Sub(product, g.Mul(Y, g.sum(product, [axis])))]


@rule("LogSoftmax")
def log_softmax(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """LogSoftmax: dX = dY - exp(Y) sum(dY)."""
    return [g.Sub(dY, g.Mul(g.Exp(node.outputs[0]), g.sum(dY, [attribute(node, "axis", -1)])))]


@rule("Dropout")
def dropout(g: Builder, node: ir.Node, dY: ir.Value, *_: ir.Value | None) -> list[InputGradient]:
    """Dropout: dX = dY mask / (1 - ratio) if it trains, otherwise dY."""
    X, ratio, training = node.inputs[0], optional_input(node, 1), optional_input(node, 2)
    trains = g.known(training)
    if training is None or (trains is not None and not trains):
        return [dY, ZERO]
    mask = g.output(node, 1, ir.DataType.BOOL, g.shape(X))
    kept = g.Sub(g.scalar(1, X), _ratio(g, ratio, X))
    dX = passing(g, g.Div(dY, kept), mask, node.outputs[0])
    if trains is None:
        dX = g.Where(training, dX, dY)
    return [dX]


def _ratio(g: Builder, ratio: Read, X: Read) -> ir.Value:
    if ratio is None:
        return g.scalar(0.5, X)
    return g.as_type(ratio, g.dtype(X))


@rule("Shrink")
def shrink(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Shrink: dX = dY where |X| is above lambd."""
    beyond = g.Greater(g.Abs(node.inputs[0]), attribute(node, "lambd", 0.5))
    return [passing(g, dY, beyond, node.outputs[0])]
