"""BatchNormTrainUpdate: the whole forward pass of a batch norm in a step, for replicas that do not synchronise."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator, Tensor
from onnx_cbp.custom_ops.ops.channels import channel_normalize, channel_stats, running_stats


def reference(
    X: np.ndarray,
    scale: np.ndarray,
    B: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    *,
    layout: Layout,
    epsilon: float,
    momentum: float,
    unbiased: int,
    relu: int,
) -> Arrays:
    """Compute the five outputs in float64: X as [outer, channels, inner]."""
    mean, var, count = channel_stats.reference(X, layout=layout)
    (Y,) = channel_normalize.reference(X, scale, B, mean, var, layout=layout, epsilon=epsilon)
    return (
        np.maximum(Y, 0.0) if relu else Y,
        mean,
        1.0 / np.sqrt(var + epsilon),
        *running_stats.reference(running_mean, mean, count, momentum=momentum, unbiased=0),
        *running_stats.reference(running_var, var, count, momentum=momentum, unbiased=unbiased),
    )


#: Statements from y_planes to floored_planes, where a model has the op with a Relu and without one.
_PERHAPS_RELU = """
    relu_int = Constant <value_int: int = @relu> ()
    is_relu = Cast <to = 9> (relu_int)
    positive = Relu (y_planes)
    floored_planes = Where (is_relu, positive, y_planes)
"""


def _body(opset: int, relu: int | None = None, unbiased: int | None = None) -> str:
    floored, floor = {
        None: ("floored_planes", _PERHAPS_RELU),
        0: ("y_planes", ""),
        1: ("floored_planes", "    floored_planes = Relu (y_planes)\n"),
    }[relu]
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + channel_stats.statements(lambda result, count: bodies.count_like(result, count, "scale", opset))
        + channel_normalize.of_deviations(opset)
        + f"""
{floor}
    {bodies.restore("Y", floored, "X", opset)}
    inv_std = Reciprocal (std)
"""
        + running_stats.statements(opset, "mean", 0, like="scale")
        + running_stats.statements(opset, "var", unbiased, like="scale")
    )


def gradient(
    g: Builder, node: Node, dY: Value, d_mean: Value, d_inv_std: Value, d_updated_mean: Value, d_updated_var: Value
) -> Gradients:
    """By BatchNormGrad, or BatchNormReluGrad if it includes a Relu; gradients that reach the statistics are added."""
    if d_updated_mean is not None or d_updated_var is not None:
        raise g.refuse("its running statistics reach the loss: they have no gradient")
    X, scale = node.inputs[:2]
    Y, mean, inv_std = node.outputs[:3]
    dX = scale_grad = bias_grad = None
    if dY is not None:
        relu = node.attributes["relu"].as_int()
        op_type, read = ("BatchNormReluGrad", (dY, Y)) if relu else ("BatchNormGrad", (dY,))
        dX, scale_grad, bias_grad = g.ours(op_type, *read, X, scale, mean, inv_std, axis=derivatives.axis_of(node))
    d_var = None if d_inv_std is None else derivatives.of_inv_std(g, inv_std, d_inv_std)
    answers = [derivatives.of_forward(g, node, dX, d_mean, d_var, mean), scale_grad, bias_grad]
    return [*(g.ZERO if each is None else each for each in answers), g.ZERO, g.ZERO]


OPERATOR = Operator(
    name="BatchNormTrainUpdate",
    doc="""BatchNormTrain, the two RunningStats and, with relu = 1, a Relu in one:

    mean = sum(X) / M,  var = sum((X - mean)^2) / M,  inv_std = 1 / sqrt(var + epsilon)
    Y = scale * (X - mean) * inv_std + B, and max(Y, 0) with relu = 1
    updated_mean = running_mean * momentum + mean * (1 - momentum),  updated_var likewise

`momentum` and `unbiased` (for the variance) are those of RunningStats. Pure: it never writes its inputs.""",
    inputs=(
        formals.X,
        formals.SCALE,
        formals.B,
        Tensor("running_mean", "U", "C", "Running mean before the step."),
        Tensor("running_var", "U", "C", "Running variance before the step."),
    ),
    outputs=(
        formals.Y,
        formals.MEAN,
        formals.INV_STD,
        Tensor("updated_mean", "U", "C", "Running mean after the step."),
        Tensor("updated_var", "U", "C", "Running variance after the step."),
    ),
    attributes=(formals.AXIS, formals.EPSILON, formals.MOMENTUM, formals.UNBIASED, formals.RELU),
    reference=reference,
    body=_body,
    choices=("relu", "unbiased"),
    gradient=gradient,
)
