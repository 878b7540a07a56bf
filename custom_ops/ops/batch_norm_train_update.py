"""BatchNormTrainUpdate: all that a batch norm does forward in a step, for replicas that do not synchronise."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, formals
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator, Tensor
from onnx_cbp.custom_ops.ops import channel_normalize, channel_stats, running_stats


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


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + channel_stats.statements(lambda result, count: bodies.count_like(result, count, "scale", opset))
        + channel_normalize.statements(opset).replace(" Y = ", " normal = ")
        + """
    inv_std = Reciprocal (std)
    relu_int = Constant <value_int: int = @relu> ()
    is_relu = Cast <to = 9> (relu_int)
    positive = Relu (normal)
    Y = Where (is_relu, positive, normal)
    unbiased_int = Constant <value_int: int = @unbiased> ()
    is_unbiased = Cast <to = 9> (unbiased_int)
    nothing_unbiased = Less (unbiased_int, unbiased_int)
"""
        + running_stats.statements(opset, "mean", "nothing_unbiased", like="scale")
        + running_stats.statements(opset, "var", "is_unbiased", like="scale")
    )


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
)
