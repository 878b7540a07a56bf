"""BatchNormReluTrainUpdate: BatchNormTrainUpdate and a Relu, with what its gradient needs to recompute the mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator
from onnx_cbp.custom_ops.ops.batch_norms import batch_norm_train_update
from onnx_cbp.custom_ops.ops.channels import channel_stats, running_stats


def _reference(*inputs: np.ndarray, layout: Layout, **attributes: Any) -> Arrays:
    results = batch_norm_train_update.reference(*inputs, layout=layout, relu=1, **attributes)
    _, scale, B, *_ = inputs
    inv_std = results[2]
    return *results, scale * inv_std, B.copy()


def _body(opset: int, unbiased: int | None = None) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + channel_stats.statements(lambda result, count: bodies.count_like(result, count, "scale", opset))
        + f"""
    epsilon_float = Constant <value_float: float = @epsilon> ()
    {bodies.cast_like("epsilon", "epsilon_float", "scale", opset)}
    shifted_var = Add (var, epsilon)
    std = Sqrt (shifted_var)
    inv_std = Reciprocal (std)
    slope = Mul (scale, inv_std)
    offset = Identity (B)
"""
        + bodies.per_channel("mean", "slope", "offset")
        + NORMAL
        + f"""
    Y_planes = Relu (normal)
    {bodies.restore("Y", "Y_planes", "X", opset)}
"""
        + running_stats.statements(opset, "mean", 0, like="scale")
        + running_stats.statements(opset, "var", unbiased, like="scale")
    )


#: Statements from X_planes, mean_column, slope_column and offset_column to the ReLU's argument. Forward and backward
#: pass share them, so that both see the same signs.
NORMAL = """
    centered_x = Sub (X_planes, mean_column)
    scaled_x = Mul (centered_x, slope_column)
    normal = Add (scaled_x, offset_column)
"""


def gradient(
    g: Builder,
    node: Node,
    dY: Value,
    d_mean: Value,
    d_inv_std: Value,
    d_updated_mean: Value,
    d_updated_var: Value,
    d_slope: Value,
    d_offset: Value,
) -> Gradients:
    """By BatchNormRecomputeReluGrad; gradients that reach the statistics are added."""
    if any(each is not None for each in (d_updated_mean, d_updated_var, d_slope, d_offset)):
        raise g.refuse("more than its result and the statistics of its batch reach the loss")
    X, scale = node.inputs[:2]
    _, mean, inv_std, _, _, slope, offset = node.outputs
    dX = scale_grad = bias_grad = None
    if dY is not None:
        dX, scale_grad, bias_grad = g.ours(
            "BatchNormRecomputeReluGrad", dY, X, scale, mean, inv_std, slope, offset, axis=derivatives.axis_of(node)
        )
    d_var = None if d_inv_std is None else derivatives.of_inv_std(g, inv_std, d_inv_std)
    answers = [derivatives.of_forward(g, node, dX, d_mean, d_var, mean), scale_grad, bias_grad]
    return [*(g.ZERO if each is None else each for each in answers), g.ZERO, g.ZERO]


OPERATOR = Operator(
    name="BatchNormReluTrainUpdate",
    doc="""BatchNormTrainUpdate and a Relu, with two vectors that tell BatchNormRecomputeReluGrad which elements passed:

    slope = scale * inv_std,  Y = max((X - mean) * slope + offset, 0)

computed in this order. slope and offset are rounded to their type before that, and offset is B plus the rounding error
of the mean.""",
    inputs=batch_norm_train_update.OPERATOR.inputs,
    outputs=(*batch_norm_train_update.OPERATOR.outputs, formals.SLOPE, formals.OFFSET),
    attributes=(formals.AXIS, formals.EPSILON, formals.MOMENTUM, formals.UNBIASED),
    reference=_reference,
    body=_body,
    choices=("unbiased",),
    gradient=gradient,
)
