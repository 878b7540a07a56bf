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
from support.made_up.networks import random_batches, random_network
from support.ops import exact, feeds_of, make_case, op_model

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
NO_PROVIDER = (
    "onnxruntime-gpu cannot make its CUDA provider here and runs all on the processor: its log names the library that "
    "it does not find (CUDA's or cuDNN's, of the version that it was built with)"
)
#: Of results in float, against the largest of an output.
TOLERANCE = 2e-5


def _run(model: onnx.ModelProto, feeds, provider: str, folder: Path):
    """The results, and which provider ran which of our ops."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.register_custom_ops_library(get_library_path())
    providers = [provider] if provider == CPU else [(CUDA, {"use_tf32": 0}), CPU]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    if provider not in session.get_providers():
        pytest.skip(NO_PROVIDER)
    results = session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = {(e["args"]["op_name"], e["args"]["provider"]) for e in events if "provider" in e.get("args", {})}
    return results, {(name, where) for name, where in ran if name in OPERATORS}


def _assert_ran_there(ran, provider: str) -> None:
    """Whether ONNX Runtime gave a node to another provider; its results may be right all the same."""
    elsewhere = {(name, where) for name, where in ran if where != provider}
    assert not elsewhere, f"not a wrong result: ONNX Runtime ran these on another provider than {provider}: {elsewhere}"


@pytest.mark.parametrize("data", ["float32", "float16", "float64"])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_op(provider, name, data, tmp_path):
    case = make_case(name, (3, 5, 7, 9), data=data, statistics="float64" if data == "float64" else "float32")
    results, ran = _run(op_model(case), feeds_of(case), provider, tmp_path)
    tolerance = 1e-3 if data == "float16" else TOLERANCE
    for got, want in zip(results, exact(case), strict=True):
        bound = tolerance * max(np.abs(want).max(initial=0.0), 1e-3)
        np.testing.assert_allclose(got, want, rtol=0, atol=bound)
    assert {name for name, _ in ran} == {name}
    _assert_ran_there(ran, provider)


def test_a_captured_graph(provider):
    """Captured by the first run with arrays of its own; later runs replay it on what these hold by then."""
    if provider == CPU:
        pytest.skip("a CUDA graph is a GPU's")
    first, second = (make_case("BatchNormTrainUpdate", (6, 5, 7, 9), seed=seed) for seed in (0, 1))
    options = ort.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    providers = [(CUDA, {"use_tf32": 0, "enable_cuda_graph": "1"}), CPU]
    session = ort.InferenceSession(op_model(first).SerializeToString(), options, providers=providers)
    if provider not in session.get_providers():
        pytest.skip(NO_PROVIDER)
    values = {name: ort.OrtValue.ortvalue_from_numpy(x, "cuda", 0) for name, x in feeds_of(first).items()}
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    wanted = [np.asarray(want) for want in exact(first)]
    for output, want in zip(session.get_outputs(), wanted, strict=True):
        made = ort.OrtValue.ortvalue_from_shape_and_type(list(want.shape), np.float32, "cuda", 0)
        binding.bind_ortvalue_output(output.name, made)
    for case in (first, first, second, first):
        for name, x in feeds_of(case).items():
            values[name].update_inplace(x)
        session.run_with_iobinding(binding)
        for got, want in zip(binding.copy_outputs_to_cpu(), exact(case), strict=True):
            bound = TOLERANCE * max(np.abs(want).max(initial=0.0), 1e-3)
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
    for got, expected in zip(results, want, strict=True):
        bound = TOLERANCE * 10 * max(np.abs(expected).max(initial=0.0), 1e-3)
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)
    _assert_ran_there(ran, provider)
