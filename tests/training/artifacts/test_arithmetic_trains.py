"""Batch norms spelled in arithmetic that are made to train: every step moves their running statistics."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import onnx_cbp
from onnx_cbp.training import Artifacts, Trainer, generate_artifacts
from support.models import parse

pytestmark = pytest.mark.training

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, {sizes}] x) => (float[N, {sizes}] y)
<float{shape} m = {{1, 2, 3}}, float{shape} v = {{4, 5, 6}}, float{shape} g = {{1, 1, 1}}, float{shape} b = {{0, 0, 0}},
 float epsilon = {{0.001}}>
{{
    {made}
    d = Sub (x, mean)  shifted = Add (var, epsilon)  std = Sqrt (shifted)  n = Div (d, std)  t = Mul (n, g)
    y = Add (t, b)
}}"""
MADE = ("mean = Relu (m) var = Abs (v)", "")


@pytest.mark.parametrize(
    ("sizes", "shape", "axes"),
    [("3, 2, 3", "[1, 3, 1, 1]", (0, 2, 3)), ("3, 3", "[3, 1]", (0, 2)), ("2, 3", "[3]", (0, 1))],
)
@pytest.mark.parametrize("made", MADE)
def test_statistics_are_parameters_and_move(made, sizes, shape, axes, tmp_path):
    text = MODEL.format(sizes=sizes, shape=shape, made=made)
    model = parse(text if made else text.replace(" m = ", " mean = ").replace(" v = ", " var = "))
    generate_artifacts(
        model,
        requires_grad=["g", "b"],
        loss="MSELoss",
        optimizer="AdamW",
        artifact_directory=tmp_path,
        train_batch_norms="*",
    )
    options = onnxruntime.SessionOptions()
    onnx_cbp.register(options)
    trainer = Trainer.load(Artifacts.in_folder(tmp_path), options)
    x = np.random.default_rng(0).normal(3, 2, (4, *(int(size) for size in sizes.split(",")))).astype(np.float32)
    trainer.module.train()
    trainer.module(x, x)
    found = {name: np.array(parameter.data) for name, parameter in trainer.state.parameters}
    mean, var = ("y.running_mean", "y.running_var") if made else ("mean", "var")
    np.testing.assert_allclose(found[mean], 0.9 * np.array([1, 2, 3]) + 0.1 * x.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(found[var], 0.9 * np.array([4, 5, 6]) + 0.1 * x.var(axes), rtol=1e-5)
