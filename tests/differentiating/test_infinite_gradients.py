"""What a Relu and its like keep back stays back where the gradient after them is infinite."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from support.stepping import Training, network

MODEL = """
<ir_version: 8, opset_import: ["" : OPSET]>
steep (float[N, 4] x) => (float loss)
{
    zero = Constant <value: tensor = float {0.0}> ()
    one = Constant <value: tensor = float {1.0}> ()
    six = Constant <value: tensor = float {6.0}> ()
    root = Constant <value: tensor = float {0.5}> ()
    two = Constant <value: tensor = float {2.0}> ()
    h = Mul (x, w)
    MASKED
    loss = ReduceMean <keepdims: int = 0> (y)
}"""
MASKED = {
    "Relu": "r = Relu (h)",
    "Clip": "r = Clip (h, zero)",
    "Clip to 6": "r = Clip (h, zero, six)",
    "Max": "r = Max (h, zero)",
    "ThresholdedRelu": "r = ThresholdedRelu <alpha: float = 0.0> (h)",
    "Shrink": "a = Relu (h)  r = Shrink <lambd: float = 0.0> (a)",
}
STEEP = {
    "Pow": "y = Pow (r, root)",
    "after linear ops": "d = Mul (r, two)  t = Transpose (d)  s = Sqrt (t)  y = Div (s, two)",
}


def _gradient(body: str, folder):
    x = np.array([[-1.0, 2.0, -3.0, 0.5], [1.0, -2.0, 3.0, -0.5]], np.float32)
    model = network(MODEL.replace("MASKED", body), {"w": np.ones(4, np.float32)})
    _, gradients = Training(model, folder, requires_grad=["w"], loss=None, optimizer=None).gradients(x)
    return gradients["w"], onnx.load(folder / "training_model.onnx")


@pytest.mark.native
@pytest.mark.parametrize(
    ("masked", "steep"), [*((each, "Sqrt") for each in MASKED), *(("Relu", each) for each in STEEP)]
)
def test_a_root_has_the_gradient_of_what_passed(masked, steep, tmp_path):
    got, _ = _gradient(f"{MASKED[masked]}  {STEEP.get(steep, 'y = Sqrt (r)')}", tmp_path)
    want = np.sqrt(np.array([1.0, 2.0, 3.0, 0.5])) / 2 / 8
    np.testing.assert_allclose(got, want / (np.sqrt(2) if steep == "after linear ops" else 1), rtol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize(
    "after",
    ["e = Add (r, one)  y = Sqrt (e)", "d = Mul (r, r)  e = Sqrt (d)  y = Mul (r, r)", "y = Pow (r, two)"],
    ids=["epsilon", "square", "power"],
)
def test_elsewhere_a_product_is_enough(after, tmp_path):
    got, model = _gradient(f"r = Relu (h)  {after}", tmp_path)
    assert np.isfinite(got).all()
    assert "Where" not in [node.op_type for node in model.graph.node]
