"""BatchNormReluGrad: the gradient of a ReLU and BatchNormGrad, in one op."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import bodies, derivatives, formals
from onnx_cbp.custom_ops.derivatives import Builder, Gradients, Node, Value
from onnx_cbp.custom_ops.operator import Arrays, Layout, Operator, Tensor
from onnx_cbp.custom_ops.ops.batch_norms import batch_norm_grad


def _reference(
    dY: np.ndarray,
    Y: np.ndarray,
    X: np.ndarray,
    scale: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    *,
    layout: Layout,
) -> Arrays:
    return batch_norm_grad.reference(np.where(Y > 0, dY, 0.0), X, scale, mean, inv_std, layout=layout)


def passed(argument: str, opset: int) -> str:
    """Statements that mask all_dY_planes where `argument`, in planes, is not positive: the result is dY_planes.

    By a product: a Where takes ten times as long on a processor, which cannot guess what it chooses.
    """
    return f"""
    no_scale = Sub (scale, scale)
    zero_column = Unsqueeze (no_scale, one)
    is_positive = Greater ({argument}, zero_column)
    {bodies.count_like("passes", "is_positive", "scale", opset)}
    dY_planes = Mul (all_dY_planes, passes)
"""


def _body(opset: int) -> str:
    return (
        bodies.CONSTANTS
        + bodies.AS_PLANES
        + bodies.planes("X", opset, like="scale")
        + bodies.planes("Y", opset, like="scale")
        + bodies.planes("dY", opset, like="scale").replace("dY_planes", "all_dY_planes")
        + passed("Y_planes", opset)
        + batch_norm_grad.statements(opset)
    )


def gradient(g: Builder, node: Node, V: Value, d_scale_grad: Value, d_bias_grad: Value) -> Gradients:
    """The rule of BatchNormGrad, for the elements that pass the ReLU: where Y is positive."""
    dY, Y, *inputs = node.inputs
    passes = g.Sign(g.Relu(Y))
    by = derivatives.of_both_steps(g, node, g.Mul(dY, passes), tuple(inputs), (V, d_scale_grad, d_bias_grad))
    return [g.Mul(by["dY"], passes), g.ZERO, *(by[name] for name in ("X", "scale", "mean", "inv_std"))]


OPERATOR = Operator(
    name="BatchNormReluGrad",
    doc="""BatchNormGrad after the gradient of a ReLU; Y is the ReLU's result and dY its gradient:

    dN = dY where Y > 0, else 0
    scale_grad = sum(dN * x_hat),  bias_grad = sum(dN),  x_hat = (X - mean) * inv_std
    dX = scale * inv_std * (dN - bias_grad / M - x_hat * scale_grad / M)""",
    inputs=(
        Tensor("dY", "T", "X", "Gradient of the loss with respect to the ReLU's result."),
        Tensor("Y", "T", "X", "The ReLU's result."),
        formals.X,
        formals.SCALE,
        formals.MEAN,
        formals.INV_STD,
    ),
    outputs=(formals.DX, formals.SCALE_GRAD, formals.BIAS_GRAD),
    attributes=(formals.AXIS,),
    reference=_reference,
    body=_body,
    gradient=gradient,
)
