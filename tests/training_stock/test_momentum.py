"""On any onnxruntime: batch norms that get another momentum, or average all batches."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import onnx_cbp
from onnx_cbp.training import generate_artifacts
from onnx_cbp.training.api import CheckpointState, Module
from support.models import parse

#: The second module is called twice; 1 is what PyTorch writes of momentum=None in eval mode.
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 2] x) => (float[N, 2] y)
<float[2] g = {1, 2}, float[2] b = {3, 4}, float[2] m = {5, 6}, float[2] v = {7, 8},
 float[2] h = {2, 3}, float[2] c = {1, 0}, float[2] p = {1, 2}, float[2] q = {3, 4}>
{
    a = BatchNormalization <momentum: float = 1.0> (x, g, b, m, v)
    r = Relu (a)
    d = BatchNormalization <momentum: float = 1.0> (r, h, c, p, q)
    y = BatchNormalization <momentum: float = 1.0> (d, h, c, p, q)
}"""
START = {"m": [5, 6], "v": [7, 8], "p": [1, 2], "q": [3, 4]}


def _data():
    rng = np.random.default_rng(0)
    return [rng.normal(3, 2, (size, 2)).astype(np.float32) for size in (6, 9, 4)]


def _followed(first, second):
    """Running statistics behind the data, in float64."""
    running = {name: np.array(value, np.float64) for name, value in START.items()}
    seen = {"m": 0, "p": 0}
    calls = (("m", "v", first, [1, 2], [3, 4]), ("p", "q", second, [2, 3], [1, 0]), ("p", "q", second, [2, 3], [1, 0]))
    for x in _data():
        x = x.astype(np.float64)
        for mean, var, momentum, scale, bias in calls:
            seen[mean] += 1
            kept = (seen[mean] - 1) / seen[mean] if momentum == "cumulative" else momentum
            for name, new in ((mean, x.mean(0)), (var, x.var(0))):
                running[name] = running[name] * kept + new * (1 - kept)
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias
            x = np.maximum(x, 0) if mean == "m" else x
    return running, seen


@pytest.mark.parametrize("switches", [{}, {"one_pass": False}, {"portable": True}], ids=str)
@pytest.mark.parametrize(
    ("momentum", "first", "second"),
    [
        ("cumulative", "cumulative", "cumulative"),
        (0.25, 0.25, 0.25),
        ({"a": "cumulative"}, "cumulative", 1.0),
        ({"a": 0.5, "*": "cumulative"}, 0.5, "cumulative"),
        (None, 1.0, 1.0),
    ],
)
def test_running_statistics_follow_it(momentum, first, second, switches, tmp_path):
    generate_artifacts(
        parse(MODEL),
        requires_grad=["g", "b", "h", "c"],
        loss="MSELoss",
        artifact_directory=tmp_path,
        train_batch_norms="*",
        rewrite_options={"momentum": momentum, **switches},
        builder="onnx_cbp",
    )
    state = CheckpointState.load_checkpoint(tmp_path / "checkpoint")
    options = onnxruntime.SessionOptions()
    if "portable" not in switches:
        onnx_cbp.register(options)
    module = Module(tmp_path / "training_model.onnx", state, tmp_path / "eval_model.onnx", session_options=options)
    for x in _data():
        module.train()
        module(x, x)
    module.eval()
    module(_data()[0], _data()[0])  # which moves and counts nothing
    found = {name: np.array(parameter.data) for name, parameter in state.parameters}
    want, seen = _followed(first, second)
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-6, atol=2e-6)
    for name, kept in (("m", first), ("p", second)):
        counter = f"{name}.num_batches_tracked"
        assert (counter in found) == (kept == "cumulative")
        if counter in found:
            assert found[counter] == [seen[name]]
    CheckpointState.save_checkpoint(state, tmp_path / "trained")
    model = onnx_cbp.finalize(tmp_path / "training_model.onnx", checkpoint=tmp_path / "trained")
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.output] == ["y"]
