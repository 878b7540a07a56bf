"""AllGather: the statistics of every replica of a group."""

from __future__ import annotations

import numpy as np

from onnx_cbp.custom_ops import collectives, formals
from onnx_cbp.custom_ops.operator import Arrays, Operator, Tensor

_LARGEST_EXACT_COUNT = 2**53


def _reference(mean: np.ndarray, var: np.ndarray, count: np.ndarray, *, group: str, layer: str) -> Arrays:
    if count > _LARGEST_EXACT_COUNT:
        raise ValueError(f"input 'count' is {count}; a message holds counts up to 2^53")
    payload = np.concatenate([mean, var, count.reshape(1).astype(np.float64)])
    gathered = collectives.all_gather("AllGather", layer, group, payload)
    channels = mean.size
    return gathered[:, :channels], gathered[:, channels:-1], gathered[:, -1].astype(np.int64)


OPERATOR = Operator(
    name="AllGather",
    doc="""Statistics of the R replicas of a group, by rank. Row r of mean and var, and element r of count, are

    mean_r, var_r, count_r = the inputs on replica r

ChannelStatsMerge merges them into the statistics of the whole batch. Each replica sends one message of 2 C + 1 doubles,
so every value arrives unchanged, and counts up to 2^53 are exact. All replicas run the same collectives in the same
order. Without a communicator R is 1. There is no function body: without the library a model must fail, and not train
unsynchronised.""",
    inputs=(formals.MEAN, formals.VAR, formals.COUNT),
    outputs=(
        Tensor("mean", "U", "RC", "Mean of every channel of every replica."),
        Tensor("var", "U", "RC", "Biased variance of every channel of every replica."),
        Tensor("count", "int64", "R", "Elements per channel of every replica."),
    ),
    attributes=(formals.GROUP, formals.LAYER),
    reference=_reference,
    body=None,
)
