"""Gradients in training artifacts against central differences, for ops whose gradients ONNX Runtime has not, or wrong.

Its builder differentiates some ops wrongly without a word, and others not at all.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_cbp import OnnxCbpError
from onnx_cbp.training import Artifacts, generate_artifacts
from support.made_up.op_forms import OTHERS, WINDOWS, Form
from support.models import op_types
from support.training import trainer

pytestmark = pytest.mark.training

_CHECKED = 6  # elements of each parameter


def _differences(form: Form, target: np.ndarray, rng: np.random.Generator):
    """Some elements of each parameter, and the derivatives of the mean squared error there."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(form.model(fed=True).SerializeToString(), options)
    values, step = form.values(), 0.02 if form.smooth else 0.002

    def loss(changed: dict[str, np.ndarray]) -> float:
        (y,) = session.run(None, {"x": form.data(), **changed})
        return float(((y.astype(np.float64) - target) ** 2).mean())

    for name, value in values.items():
        for index in rng.permutation(value.size)[:_CHECKED]:
            above, below = value.copy(), value.copy()
            above.reshape(-1)[index] += step
            below.reshape(-1)[index] -= step
            width = float(above.reshape(-1)[index]) - float(below.reshape(-1)[index])
            yield name, index, (loss({**values, name: above}) - loss({**values, name: below})) / width


@pytest.mark.parametrize("form", WINDOWS + OTHERS, ids=str)
def test_gradients(form: Form, tmp_path):
    rng = np.random.default_rng(3)
    model, values = form.model(), form.values()
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": form.data()})
    target = rng.normal(size=y.shape).astype(np.float32)
    shape = ["N" if size == 2 and axis == 0 else size for axis, size in enumerate(y.shape)]
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape))
    generate_artifacts(model, list(values), loss="MSELoss", optimizer="SGD", artifact_directory=tmp_path)
    trained = trainer(Artifacts.in_folder(tmp_path), "auto")
    assert trained.forward_backward((form.data(), target)) == pytest.approx(((y - target) ** 2).mean(), rel=1e-5)
    got = {name: gradient.reshape(-1) for name, gradient in trained.gradients().items()}
    assert set(got) == set(values)
    largest = {name: np.abs(gradient).max() for name, gradient in got.items()}
    for name, index, want in _differences(form, target, rng):
        assert got[name][index] == pytest.approx(want, abs=float(0.01 * largest[name]) + 1e-4), (name, index)


@pytest.mark.parametrize(
    ("text", "opset", "message"),
    [
        ("y = Hardmax (h)", 17, r"node 'bad' \(Hardmax\): ONNX Runtime's gradient builder has no gradient for this op"),
        ("y = CumSum (h, k)", 17, r"node 'bad' \(CumSum\)"),
        ("y = ReduceProd <axes = [1]> (h)", 17, r"node 'bad' \(ReduceProd\)"),
        ('y = ScatterND <reduction = "add"> (h, k, h)', 17, r"node 'bad' \(ScatterND\).*reduction = add"),
        (
            "y = If <then_branch = t () => (o) { o = Tanh (h) }, else_branch = e () => (o) { o = Exp (h) }> (c)",
            17,
            "If",
        ),
    ],
)
def test_what_has_no_gradient_is_named(text, opset, message, tmp_path):
    form = Form(text, (2, 3), opset, constants={"k": np.array(1), "c": np.array(True)})
    model = form.model()
    model.graph.node[1].name = "bad"
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3]))
    with pytest.raises(OnnxCbpError, match=message) as error:
        generate_artifacts(model, ["P"], loss="MSELoss", artifact_directory=tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_stands_in_front_of_all_that_trains_stays(tmp_path):
    form = Form("p = AveragePool <kernel_shape = [2, 2]> (h) f = Flatten (p) y = MatMul (f, w)", trained={"w": (75, 2)})
    model = form.model()
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 2]))
    generate_artifacts(model, ["w"], loss="MSELoss", artifact_directory=tmp_path)
    assert "AveragePool" in op_types(onnx.load(tmp_path / "training_model.onnx"))
    generate_artifacts(model, ["P"], loss="MSELoss", artifact_directory=tmp_path)
    assert "AveragePool" not in op_types(onnx.load(tmp_path / "training_model.onnx"))
