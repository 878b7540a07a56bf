"""BatchNormTrain: statistics and normalisation in one op, for replicas that do not synchronise."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator
from onnx_cbp.custom_ops.ops.channels import channel_normalize, channel_stats


def _reference(X: np.ndarray, scale: np.ndarray, B: np.ndarray, *, layout: Layout, epsilon: float) -> Arrays:
    mean, var, count = channel_stats.reference(X, layout=layout)
    return (*channel_normalize.reference(X, scale, B, mean, var, layout=layout, epsilon=epsilon), mean, var, count)


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + channel_stats.statements(lambda result, count: bodies.count_like(result, count, "scale", opset))
        + channel_normalize.of_deviations(opset)
        + bodies.restore("Y", "y_planes", "X", opset)
    )


def gradient(g: Builder, node: Node, dY: Value, d_mean: Value, d_var: Value, _: None) -> Gradients:
    """By BatchNormGrad; gradients that reach the statistics are added."""
    X, scale, _B = node.inputs
    mean, var = node.outputs[1:3]
    dX = scale_grad = bias_grad = None
    if dY is not None:
        inv_std = g.Reciprocal(g.Sqrt(g.Add(var, node.attributes["epsilon"].as_float())))
        dX, scale_grad, bias_grad = g.ours("BatchNormGrad", dY, X, scale, mean, inv_std, axis=derivatives.axis_of(node))
    answers = [derivatives.of_forward(g, node, dX, d_mean, d_var, mean), scale_grad, bias_grad]
    return [g.ZERO if each is None else each for each in answers]


OPERATOR = Operator(
    name="BatchNormTrain",
    doc="""ChannelStats and ChannelNormalize in one: normalises X with the statistics of the batch, and gives them.

    mean = sum(X) / M,  var = sum((X - mean)^2) / M,  Y = scale * (X - mean) / sqrt(var + epsilon) + B""",
    inputs=(formals.X, formals.SCALE, formals.B),
    outputs=(formals.Y, formals.MEAN, formals.VAR, formals.COUNT),
    attributes=(formals.AXIS, formals.EPSILON),
    reference=_reference,
    body=_body,
    gradient=gradient,
)
