"""AllReduce: the sums of a batch norm's backward pass over all replicas of a group."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import collectives, formals
from onnx_cbp.custom_ops.operator import Arrays, Operator


def _reference(scale_grad: np.ndarray, bias_grad: np.ndarray, *, group: str, reduction: str, layer: str) -> Arrays:
    payload = np.concatenate([scale_grad, bias_grad])
    reduced = collectives.all_reduce("AllReduce", layer, group, payload, reduction)
    return reduced[: scale_grad.size], reduced[scale_grad.size :]


OPERATOR = Operator(
    name="AllReduce",
    doc="""Sum, or mean, of the results of ChannelBackpropStats over the R replicas of a group:

    scale_grad = sum(scale_grad_r),  bias_grad = sum(bias_grad_r)    (reduction "mean": each divided by R)

ChannelBackprop takes these sums, and the count of ChannelStatsMerge. Each replica sends one message of 2 C doubles.
They are summed in double and rounded once; every replica gets the same bits. All replicas run the same collectives in
the same order. Without a communicator R is 1. There is no function body: without the library a model must fail, and not
train unsynchronised.""",
    inputs=(formals.SCALE_GRAD, formals.BIAS_GRAD),
    outputs=(formals.SCALE_GRAD, formals.BIAS_GRAD),
    attributes=(formals.GROUP, formals.REDUCTION, formals.LAYER),
    reference=_reference,
    body=None,
)
