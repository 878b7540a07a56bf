"""Second derivatives of a batch norm: the gradient of its gradient, in ops (docs/internals/mathematics.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from onnx_cbp.custom_ops.operator import DOMAIN


@dataclass(frozen=True)
class DoubleBackward:
    """Nodes that compute a double backward, and the names of their results.

    Attributes:
        nodes: in order; they need our domain and opset 13 or newer.
        X, scale, dY: the gradients of <V, dX> with respect to X, scale and dY, with the shapes [N, C, ...], [C] and
            [N, C, ...].
    """

    nodes: tuple[onnx.NodeProto, ...]
    X: str
    scale: str
    dY: str


def batch_norm_double_backward(
    *,
    X: str,
    scale: str,
    mean: str,
    var: str,
    inv_std: str,
    count: str,
    dY: str,
    scale_grad: str,
    bias_grad: str,
    V: str,
    prefix: str,
    epsilon: float,
    axis: int = 1,
    stash_type: int = onnx.TensorProto.FLOAT,
) -> DoubleBackward:
    """Nodes for the vector-Jacobian product of dX, the input gradient of a batch norm that trains.

    PyTorch computes the same if autograd differentiates a batch norm twice. X, scale and dY are the only independent
    inputs of the backward pass: mean, var and inv_std count as functions of X.

    Args:
        X: the name of the input of the batch norm. The next arguments are names too:
        scale: its scale.
        mean: the mean of its batch, from ChannelStats.
        var: the biased variance of its batch.
        inv_std: 1 / sqrt(var + epsilon).
        count: the number of elements per channel.
        dY: the gradient of its result.
        scale_grad: the first result of ChannelBackpropStats(X, mean, inv_std, dY).
        bias_grad: the second.
        V: the cotangent of dX: the gradient of a further loss with respect to dX, with X's shape and type. For half the
            squared norm of dX (a gradient penalty) it is dX; for a Hessian-vector product it is the vector.
        prefix: the beginning of the names of all new values.
        epsilon: of the batch norm.
        axis: the channel axis of X.
        stash_type: the type of scale and the statistics, as in ChannelStats: 1 is float, 11 double.
    """
    nodes: list[onnx.NodeProto] = []

    def add(op_type: str, inputs: tuple[str, ...], *outputs: str, domain: str = "", **attributes: Any) -> str:
        named = [prefix + name for name in outputs]
        nodes.append(helper.make_node(op_type, inputs, named, domain=domain, **attributes))
        return named[0]

    def channels(op_type: str, inputs: tuple[str, ...], *outputs: str, **attributes: Any) -> tuple[str, ...]:
        add(op_type, inputs, *outputs, domain=DOMAIN, axis=axis, **attributes)
        return tuple(prefix + name for name in outputs)

    sgv, bgv = channels("ChannelBackpropStats", (X, mean, inv_std, V), "sgv", "bgv")
    (second_dY,) = channels("ChannelBackprop", (V, X, scale, mean, inv_std, sgv, bgv, count), "dY")

    zeros = add("Sub", (mean, mean), "zeros")
    ones = add("Exp", (zeros,), "ones")
    inner_product, _ = channels("ChannelBackpropStats", (dY, zeros, ones, V), "inner_product", "sum_of_V")
    m = add("Cast", (count,), "m", to=stash_type)
    sums = add("Add", (add("Mul", (scale_grad, sgv), "sums"), add("Mul", (bias_grad, bgv), "biases")), "both")
    rest = add("Sub", (inner_product, add("Div", (sums, m), "both_mean")), "rest")
    second_scale = add("Mul", (inv_std, rest), "scale")

    slope_mean = add("Div", (add("Mul", (scale, inv_std), "slope"), m), "slope_mean")
    minus = add("Neg", (slope_mean,), "minus_slope_mean")
    x1, mean1, inv1, _ = channels(
        "ChannelBackpropStatsGrad",
        (X, mean, inv_std, dY, add("Mul", (minus, sgv), "d_sg"), zeros),
        *("x1", "mean1", "inv1", "unused1"),
    )
    x2, mean2, inv2, _ = channels(
        "ChannelBackpropStatsGrad",
        (X, mean, inv_std, V, add("Mul", (minus, scale_grad), "d_sgv"), zeros),
        *("x2", "mean2", "inv2", "unused2"),
    )
    d_mean = add("Add", (mean1, mean2), "d_mean")
    d_inv_std = add("Add", (add("Add", (inv1, inv2), "d_inv_sums"), add("Mul", (scale, rest), "d_inv")), "d_inv_std")

    # Through mean and var: (X - mean) times a coefficient, plus a constant, which is what ChannelNormalize does.
    through_var = add("Mul", (add("Mul", (inv_std, inv_std), "square"), d_inv_std), "through_var")
    coefficient = add("Neg", (add("Div", (through_var, m), "through_var_mean"),), "coefficient")
    constant = add("Div", (d_mean, m), "through_mean")
    (x3,) = channels("ChannelNormalize", (X, coefficient, constant, mean, var), "x3", epsilon=epsilon)
    second_X = add("Add", (add("Add", (x1, x2), "x12"), x3), "X")
    return DoubleBackward(tuple(nodes), second_X, second_scale, second_dY)
