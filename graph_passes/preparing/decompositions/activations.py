"""Activations in elementary ops. Their gradients are finite wherever the function's is, and right at zero."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.formula import Formula
from onnx_cbp.graph_passes.core.splice import is_used

#: From here on, log(1 + exp(x)) is x in float32.
_LINEAR_FROM = 20.0


def hard_sigmoid(f: Formula) -> ir.Value:
    """Y = min(max(alpha * x + beta, 0), 1)."""
    return f.between(_affine(f, f.input(0), f.number("alpha", 0.2), f.number("beta", 0.5)), 0.0, 1.0)


def hard_swish(f: Formula) -> ir.Value:
    """Y = x * min(max(x / 6 + 1 / 2, 0), 1)."""
    return f.op("Mul", f.input(0), f.between(_affine(f, f.input(0), 1 / 6, 0.5), 0.0, 1.0))


def elu(f: Formula) -> ir.Value:
    """Y = x where x > 0, and alpha * (exp(x) - 1) elsewhere."""
    return _elu(f, f.number("alpha", 1.0), 1.0)


def celu(f: Formula) -> ir.Value:
    """Y = x where x > 0, and alpha * (exp(x / alpha) - 1) elsewhere."""
    alpha = f.number("alpha", 1.0)
    return _elu(f, alpha, alpha)


def selu(f: Formula) -> ir.Value:
    """Y = gamma * elu(x)."""
    elu_of_x = _elu(f, f.number("alpha", 1.6732632423543772), 1.0)
    return f.op("Mul", elu_of_x, f.number("gamma", 1.0507009873554805))


def softplus(f: Formula) -> ir.Value:
    """Y = log(1 + exp(x))."""
    return _softplus(f, f.input(0))


def mish(f: Formula) -> ir.Value:
    """Y = x * tanh(softplus(x))."""
    return f.op("Mul", f.input(0), f.op("Tanh", _softplus(f, f.input(0))))


def softsign(f: Formula) -> ir.Value:
    """Y = x / (1 + |x|)."""
    return f.op("Div", f.input(0), f.op("Add", f.op("Abs", f.input(0)), 1.0))


def swish(f: Formula) -> ir.Value:
    """Y = x * sigmoid(alpha * x)."""
    return f.op("Mul", f.input(0), f.op("Sigmoid", f.op("Mul", f.input(0), f.number("alpha", 1.0))))


def thresholded_relu(f: Formula) -> ir.Value:
    """Y = x where x > alpha, and 0 elsewhere."""
    return f.op("Where", f.op("Greater", f.input(0), f.number("alpha", 1.0)), f.input(0), 0.0)


def shrink(f: Formula) -> ir.Value:
    """Y = x + bias where x < -lambd, x - bias where x > lambd, and 0 elsewhere."""
    x, bias, limit = f.input(0), f.number("bias", 0.0), f.number("lambd", 0.5)
    above = f.op("Where", f.op("Greater", x, limit), f.op("Sub", x, bias), 0.0)
    return f.op("Where", f.op("Less", x, -limit), f.op("Add", x, bias), above)


def prelu(f: Formula) -> ir.Value:
    """Y = max(x, 0) + slope * (x - max(x, 0))."""
    x, slope = f.input(0), f.input(1)
    above = f.op("Relu", x)
    return f.op("Add", above, f.op("Mul", slope, f.op("Sub", x, above)))


def gelu(f: Formula) -> ir.Value | None:
    """Y = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), which the builder takes for the exact form."""
    if f.text("approximate", "none") != "tanh":
        return None
    x = f.input(0)
    cubic = f.op("Add", x, f.op("Mul", f.op("Mul", f.op("Mul", x, x), x), 0.044715))
    bent = f.op("Add", f.op("Tanh", f.op("Mul", cubic, math.sqrt(2 / math.pi))), 1.0)
    return f.op("Mul", f.op("Mul", x, 0.5), bent)


def dropout(f: Formula) -> ir.Value | None:
    """Removes one in inference form, which the builder takes for a training one; adds the mask, which it reads."""
    outputs = f.node.outputs
    trains = len(f.node.inputs) > 2 and f.node.inputs[2] is not None
    known = f.known(2) if trains else np.array(False)
    if known is not None and not known and not any(is_used(value) for value in outputs[1:]):
        return f.op("Identity", f.input(0))
    if len(outputs) > 1:
        return None
    attributes = {name: each.value for name, each in f.node.attributes.items()}
    return f.op("Dropout", *f.node.inputs, outputs=2, **attributes)


def _affine(f: Formula, x: ir.Value, factor: float, offset: float) -> ir.Value:
    return f.op("Add", f.op("Mul", x, factor), offset)


def _elu(f: Formula, alpha: float, width: float) -> ir.Value:
    x = f.input(0)
    below = f.at_most(x, 0.0)  # exp of a large x is infinite, and its gradient would be 0 times that
    exponent = below if width == 1.0 else f.op("Div", below, width)
    return f.op("Where", f.op("Greater", x, 0.0), x, f.op("Mul", f.op("Sub", f.op("Exp", exponent), 1.0), alpha))


def _softplus(f: Formula, x: ir.Value) -> ir.Value:
    curved = f.op("Log", f.op("Add", f.op("Exp", f.at_most(x, _LINEAR_FROM)), 1.0))
    return f.op("Where", f.op("Greater", x, _LINEAR_FROM), x, curved)


RULES = {
    "Celu": celu,
    "Dropout": dropout,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Mish": mish,
    "PRelu": prelu,
    "Selu": selu,
    "Shrink": shrink,
    "Softplus": softplus,
    "Softsign": softsign,
    "Swish": swish,
    "ThresholdedRelu": thresholded_relu,
}
