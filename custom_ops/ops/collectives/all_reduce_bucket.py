"""AllReduceBucket: many gradients, joined in one vector, reduced over all replicas of a group."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import collectives, formals
from onnx_cbp.custom_ops.operator import Arrays, Operator, Tensor


def _reference(bucket: np.ndarray, *, group: str, reduction: str, layer: str) -> Arrays:
    return (collectives.all_reduce("AllReduceBucket", layer, group, bucket, reduction),)


OPERATOR = Operator(
    name="AllReduceBucket",
    doc="""Sum, or mean, of a vector over the R replicas of a group:

    reduced = sum(bucket_r)    (reduction "mean": divided by R)

For the gradients of parameters, concatenated as in a bucket of PyTorch's DistributedDataParallel. Each replica sends
one message in the bucket's own type; every replica gets the same bits. All replicas run the same collectives in the
same order. Without a communicator R is 1. There is no function body: without the library a model must fail, and not
train unsynchronised.""",
    inputs=(Tensor("bucket", "U", "C", "Values to reduce."),),
    outputs=(Tensor("reduced", "U", "C", "The reduced values."),),
    attributes=(formals.GROUP, formals.REDUCTION, formals.LAYER),
    reference=_reference,
    body=None,
)
