"""BatchNormRecomputeReluGrad: like BatchNormReluGrad, but it recomputes the signs of Y instead of reading Y."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator, Tensor
from onnx_cbp.custom_ops.ops.batch_norms import batch_norm_grad, batch_norm_relu_grad, batch_norm_relu_train_update


def _reference(
    dY: np.ndarray,
    X: np.ndarray,
    scale: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    slope: np.ndarray,
    offset: np.ndarray,
    *,
    layout: Layout,
) -> Arrays:
    normal = (X - layout.per_channel(mean)) * layout.per_channel(slope) + layout.per_channel(offset)
    return batch_norm_grad.reference(np.where(normal > 0, dY, 0.0), X, scale, mean, inv_std, layout=layout)


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + bodies.planes("dY", opset, like="scale").replace("dY_planes", "all_dY_planes")
        + bodies.per_channel("mean", "slope", "offset").replace("mean_column", "center_column")
        + batch_norm_relu_train_update.NORMAL.replace("mean_column", "center_column").replace(
            "centered_x", "from_center"
        )
        + batch_norm_relu_grad.passed("normal", opset)
        + batch_norm_grad.statements(opset)
    )


def gradient(g: Builder, node: Node, V: Value, d_scale_grad: Value, d_bias_grad: Value) -> Gradients:
    """The rule of BatchNormGrad, for the elements that pass the ReLU: where (X - mean) slope + offset is positive."""
    dY, X, scale, mean, inv_std, slope, offset = node.inputs
    axis, rank, dtype = derivatives.axis_of(node), g.rank(X), g.dtype(X)
    mean_column, offset_column = (g.column(g.as_type(each, dtype), axis, rank) for each in (mean, offset))
    normal = g.Add(derivatives.times(g, g.Sub(X, mean_column), slope, axis), offset_column)
    passes = g.nonzero(g.Relu(normal))
    inputs = (X, scale, mean, inv_std)
    by = derivatives.of_both_steps(g, node, g.Mul(dY, passes), inputs, (V, d_scale_grad, d_bias_grad))
    return [g.Mul(by["dY"], passes), *(by[name] for name in ("X", "scale", "mean", "inv_std")), g.ZERO, g.ZERO]


OPERATOR = Operator(
    name="BatchNormRecomputeReluGrad",
    doc="""BatchNormGrad after the gradient of the ReLU of BatchNormReluTrainUpdate; dY is the gradient of its Y:

    dN = dY where (X - mean) * slope + offset > 0, else 0
    scale_grad = sum(dN * x_hat),  bias_grad = sum(dN),  x_hat = (X - mean) * inv_std
    dX = scale * inv_std * (dN - bias_grad / M - x_hat * scale_grad / M)

It reads one tensor less than BatchNormReluGrad. If Y has 16 bits, elements that were rounded to zero do not pass.""",
    inputs=(
        Tensor("dY", "T", "X", "Gradient of the loss with respect to the ReLU's result."),
        formals.X,
        formals.SCALE,
        formals.MEAN,
        formals.INV_STD,
        formals.SLOPE,
        formals.OFFSET,
    ),
    outputs=(formals.DX, formals.SCALE_GRAD, formals.BIAS_GRAD),
    attributes=(formals.AXIS,),
    reference=_reference,
    body=_body,
    gradient=gradient,
)
