"""Sessions of ONNX Runtime with the CUDA provider beside sessions of the processor's.

Where the kernels are the processor's, so is the provider, and the sessions run through the same adapter.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnx_cbp
from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.custom_ops.library import get_library_path
from support.cuda import TorchDevice
from support.networks import random_batches, random_network
from support.ops import exact, feeds_of, make_case, op_model

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
#: Of results in float, against the largest of an output.
TOLERANCE = 2e-5


@pytest.fixture
def provider(device):
    if isinstance(device, TorchDevice) and device.name == "cuda":
        if CUDA not in ort.get_available_providers():
            pytest.skip(f"onnxruntime {ort.__version__} has no CUDA provider: install onnxruntime-gpu")
        return CUDA
    return CPU


def _run(model: onnx.ModelProto, feeds, provider: str, folder: Path):
    """The results, and which provider ran which of our ops."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.register_custom_ops_library(get_library_path())
    providers = [provider] if provider == CPU else [(CUDA, {"use_tf32": 0}), CPU]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    results = session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = {(e["args"]["op_name"], e["args"]["provider"]) for e in events if "provider" in e.get("args", {})}
    return results, {(name, where) for name, where in ran if name in OPERATORS}


@pytest.mark.parametrize("data", ["float32", "float16", "float64"])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_op(provider, name, data, tmp_path):
    case = make_case(name, (3, 5, 7, 9), data=data, statistics="float64" if data == "float64" else "float32")
    results, ran = _run(op_model(case), feeds_of(case), provider, tmp_path)
    assert ran == {(name, provider)}
    tolerance = 1e-3 if data == "float16" else TOLERANCE
    for got, want in zip(results, exact(case), strict=True):
        bound = tolerance * max(np.abs(want).max(initial=0.0), 1e-3)
        np.testing.assert_allclose(got, want, rtol=0, atol=bound)


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_a_rewritten_network(provider, rank, tmp_path):
    original = random_network(rank, rank)
    model = onnx_cbp.rewrite(original)
    feeds = {
        value.name: array for value, array in zip(model.graph.input, random_batches(original, 1, rank)[0], strict=False)
    }
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    want = ort.InferenceSession(original.SerializeToString(), plain, providers=[CPU]).run(None, feeds)
    results, ran = _run(model, feeds, provider, tmp_path)
    assert any(name.startswith("BatchNorm") for name, _ in ran)
    assert {where for _, where in ran} == {provider}
    for got, expected in zip(results, want, strict=True):
        bound = TOLERANCE * 10 * max(np.abs(expected).max(initial=0.0), 1e-3)
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)
