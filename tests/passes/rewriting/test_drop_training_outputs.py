"""Batch norms that do not train have one output; what reads another gets the running statistic."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnx_cbp.graph_passes import DropTrainingOutputsPass
from support.models import op_types

EVALUATION = """
<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N, 3, H, W] x, float[3] gamma, float[3] beta, float[3] mean, float[3] var) => ({outputs})
{{
    y, {names} = BatchNormalization <epsilon: float = 0.001 {mode}> (x, gamma, beta, mean, var)
}}
"""
Y, MEAN, VAR = "float[N, 3, H, W] y", "float[3] new_mean", "float[3] new_var"


def _model(opset: int, outputs: str) -> onnx.ModelProto:
    mode, names = (", training_mode: int = 0", "new_mean, new_var") if opset >= 14 else ("", "new_mean, new_var, m, v")
    return onnx.parser.parse_model(EVALUATION.format(opset=opset, outputs=outputs, names=names, mode=mode))


def _repaired(model: onnx.ModelProto, **options) -> onnx.ModelProto:
    result = DropTrainingOutputsPass(**options)(ir.from_proto(model))
    assert result.modified
    assert not DropTrainingOutputsPass(**options)(result.model).modified
    return ir.to_proto(result.model)


def _feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {name: rng.uniform(0.5, 2.0, 3).astype(np.float32) for name in ("gamma", "beta", "mean", "var")}
    return {"x": rng.normal(1.0, 2.0, (2, 3, 4, 5)).astype(np.float32), **feeds}


@pytest.mark.parametrize(("opset", "options"), [(15, {}), (13, {"evaluation": True}), (9, {"evaluation": True})])
@pytest.mark.parametrize("outputs", [Y, f"{Y}, {MEAN}", f"{Y}, {MEAN}, {VAR}"])
def test_it_loads_and_normalises_with_running_statistics(outputs, opset, options):
    repaired = _repaired(_model(opset, outputs), **options)
    onnx.checker.check_model(repaired, full_check=True)
    session = ort.InferenceSession(repaired.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = _feeds()
    got = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    v = {name: value.astype(np.float64).reshape(-1, 1, 1) for name, value in feeds.items() if name != "x"}
    want = v["gamma"] * (feeds["x"] - v["mean"]) / np.sqrt(v["var"] + 0.001) + v["beta"]
    np.testing.assert_allclose(got.pop("y"), want, rtol=1e-5, atol=1e-5)
    for name, value in got.items():
        np.testing.assert_array_equal(value, feeds[name.removeprefix("new_")])
    assert op_types(repaired).count("Identity") == len(got)


def test_what_trains_is_left_to_train():
    model = ir.from_proto(_model(13, Y))
    assert not DropTrainingOutputsPass()(model).modified
    assert len(model.graph[0].outputs) == 5


#: A weight that is standardised by a batch norm, as a training export and ONNX Runtime's evaluation model have it.
OF_THE_BATCH = """
<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[{shape}] x, float[3] gamma, float[3] beta) => (float[{shape}] y{more})
{{
    m = ReduceMean <axes = [{axes}], keepdims = 0> (x)
    k = ReduceMean <axes = [{axes}], keepdims = 1> (x)
    d = Sub (x, k)
    q = Mul (d, d)
    v = ReduceMean <axes = [{axes}], keepdims = 0> (q)
    y, new_mean, new_var = BatchNormalization <epsilon: float = 0.001, training_mode: int = 0> (x, gamma, beta, m, v)
}}
"""


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("opset", [14, 15, 17])
@pytest.mark.parametrize(
    ("shape", "axes", "more"),
    [((1, 3, 27), "0, 2", ""), ((8, 3), "0", ", float[3] new_mean"), ((2, 3, 4, 5), "0, 2, 3", ", float[3] new_var")],
)
def test_statistics_that_the_graph_makes(shape, axes, more, opset, evaluation):
    text = OF_THE_BATCH.format(opset=opset, shape=", ".join(map(str, shape)), axes=axes, more=more)
    repaired = _repaired(onnx.parser.parse_model(text), evaluation=evaluation)
    onnx.checker.check_model(repaired, full_check=True)
    session = ort.InferenceSession(repaired.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(1.0, 2.0, shape).astype(np.float32)
    feeds = {"x": x, "gamma": np.full(3, 2.0, np.float32), "beta": np.full(3, 3.0, np.float32)}
    got = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    over, wide = tuple(map(int, axes.split(","))), x.astype(np.float64)
    mean, var = wide.mean(over, keepdims=True), wide.var(over, keepdims=True)
    want = {"y": 2 * (wide - mean) / np.sqrt(var + 0.001) + 3, "new_mean": mean.reshape(-1), "new_var": var.reshape(-1)}
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=1e-5, atol=1e-5)
