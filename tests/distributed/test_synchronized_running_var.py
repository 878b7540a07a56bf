"""The unbiased running variance of a synchronised batch norm counts the whole batch."""

from __future__ import annotations

import numpy as np

import onnx_cbp
from onnx_cbp import distributed
from support.models import FORWARD, parse
from support.ops import session


def test_the_count_is_that_of_all_replicas():
    rewritten = onnx_cbp.rewrite(parse(FORWARD), synchronize=True, unbiased_running_var=True)
    x = np.random.default_rng(2).normal(1.0, 2.0, (5, 3, 1, 1)).astype(np.float32)
    ones = np.ones(3, np.float32)
    run = session(rewritten, "auto")

    def replicate():
        shard = (x[:1], x[1:])[distributed.rank()]  # one of a single element, which PyTorch refuses
        return run.run(None, {"x": shard, "gamma": ones, "beta": ones, "mean": ones, "var": ones})[2]

    try:
        results = distributed.run_replicas(replicate, 2)
    finally:
        distributed.finalize()
    want = 0.8 + 0.2 * x.astype(np.float64).var(axis=(0, 2, 3), ddof=1)
    for got in results:
        np.testing.assert_allclose(got, want, rtol=1e-6)
