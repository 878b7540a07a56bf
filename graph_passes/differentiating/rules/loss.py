"""Gradient rules of loss ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.differentiating.attributes import text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule


@rule("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(
    g: Builder, node: ir.Node, d_loss: ir.Value | None, d_log_prob: ir.Value | None = None
) -> list[InputGradient]:
    """SoftmaxCrossEntropyLoss: with the log-probabilities L, dX = dL - exp(L) sum(dL) over the classes."""
    X = node.inputs[0]
    log_prob = g.output(node, 1, g.dtype(X), g.shape(X))
    parts = [] if d_loss is None else [_of_log_probabilities(g, node, d_loss)]
    parts += [] if d_log_prob is None else [d_log_prob]
    dL = parts[0] if len(parts) == 1 else g.Add(*parts)
    return [g.Sub(dL, g.Mul(g.Exp(log_prob), g.sum(dL, [1]))), ZERO]


@rule("NegativeLogLikelihoodLoss")
def negative_log_likelihood(g: Builder, node: ir.Node, d_loss: ir.Value) -> list[InputGradient]:
    """NegativeLogLikelihoodLoss: dX = -weight d_loss at the label; for a mean, divided by the sum of the weights."""
    return [_of_log_probabilities(g, node, d_loss), ZERO]


def _of_log_probabilities(g: Builder, node: ir.Node, d_loss: ir.Value) -> ir.Value:
    X, weights = node.inputs[0], optional_input(node, 2)
    labels = g.as_type(node.inputs[1], ir.DataType.INT64)  # ONNX Runtime has no OneHot of others, and ignore_index fits
    (classes,) = g.fixed(X, [1])
    reduction, dtype = text(node, "reduction", "mean"), g.dtype(X)
    weight: Read = None
    if "ignore_index" in node.attributes:
        ignored = g.Equal(labels, attribute(node, "ignore_index", 0))
        labels = g.Where(ignored, g.scalar(0, labels), labels)  # an ignored label need not be a class
        weight = g.Where(ignored, g.scalar(0, X), g.scalar(1, X))
    if weights is not None:
        own = g.Gather(weights, labels, axis=0)
        weight = own if weight is None else g.Mul(own, weight)
    if reduction == "mean":
        if weight is None:
            d_loss = g.divided_by_count(d_loss, labels, range(g.rank(labels)))
        else:
            d_loss = g.Div(d_loss, g.ReduceSum(weight, keepdims=0))
    share = g.Neg(d_loss if weight is None else g.Mul(d_loss, weight))
    chosen = g.one_hot(labels, np.array(classes, np.int64), dtype, axis=1)
    return g.Mul(chosen, g.Unsqueeze(share, [1]) if g.rank(share) else share, like=X)
