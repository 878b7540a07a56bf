"""Second derivatives of a batch norm, by our ops and standard ONNX, are PyTorch's in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import onnx_cbp
from onnx_cbp.custom_ops.references import OP_RUNS
from support.gradients.double_backward import double_backward
from support.ops import session

DATA = Path(__file__).parent.parent / "data" / "double_backward.npz"


@pytest.fixture(scope="module")
def recorded():
    """PyTorch's results, by rank and name; make_double_backward.py beside the file records them."""
    with np.load(DATA) as arrays:
        return {key: arrays[key] for key in arrays}


def _run(model, backend, feeds):
    if backend == "reference":
        return ReferenceEvaluator(model, new_ops=OP_RUNS).run(None, feeds)
    if backend == "bodies":
        return session(onnx_cbp.rewrite(model, portable=True), None).run(None, feeds)
    return session(model, backend).run(None, feeds)


@pytest.mark.parametrize("kind", ["hvp", "penalty"])
@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("backend", ["reference", "bodies", "python", pytest.param("native", marks=pytest.mark.native)])
def test_equals_pytorch(backend, rank, kind, recorded):
    case = {key.split("/")[1]: value for key, value in recorded.items() if key.startswith(f"rank{rank}/")}
    feeds = {name: case[name] for name in ("X", "scale", "dY", "V")}
    results = _run(double_backward(rank, penalty=kind == "penalty"), backend, feeds)
    onnx_cbp.raise_python_op_error()
    want = [case["dX"], *(case[f"{kind}_{name}"] for name in ("X", "scale", "dY"))]
    for got, expected in zip(results, want, strict=True):
        # epsilon is a 32-bit attribute of ChannelNormalize, and a double in PyTorch
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
