"""Shapes that a model declares of values between its nodes, and that are not theirs: ONNX Runtime goes by its own.

jax2onnx takes Transposes away and leaves the shapes of before.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_cbp import finalize, rewrite
from support.models import op_types
from support.ops import session
from support.stepping import Training, network

MODEL = """
<ir_version: 8, opset_import: ["" : OPSET]>
stale (float[N, 6, 6, 3] x) => (float[N, 4] logits)
{
    first = Transpose <perm: ints = [0, 3, 1, 2]> (x)
    hidden = Conv (first, w, b)
    normal = BatchNormalization (hidden, scale, bias, mean, var)
    positive = Relu (normal)
    logits = ReduceMean <axes: ints = [2, 3], keepdims: int = 0> (positive)
}"""
#: Of the values between: the channels last, another size, and only one of them.
SHAPES = {
    "channels last": {"hidden": ("N", 5, 5, 4), "normal": ("N", 5, 5, 4), "positive": ("N", 5, 5, 4)},
    "another size": {"hidden": ("N", 4, 6, 6), "positive": ("N", 4, 6, 6)},
    "at the end": {"positive": ("N", 5, 5, 4)},
}


def stale(shapes: dict[str, tuple[int | str, ...]]) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    values = {"w": rng.normal(size=(4, 3, 2, 2)), "b": rng.normal(size=4), "scale": rng.uniform(0.5, 1.5, 4)}
    values |= {"bias": rng.normal(size=4), "mean": rng.normal(size=4), "var": rng.uniform(0.5, 1.5, 4)}
    model = network(MODEL, {name: value.astype(np.float32) for name, value in values.items()})
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return session(model, "auto").run(None, {"x": x})[0]


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_the_right_ones_are_found(shapes, tmp_path):
    model, x = stale(shapes), np.random.default_rng(4).normal(size=(5, 6, 6, 3)).astype(np.float32)
    finished = finalize(model)
    onnx.checker.check_model(finished, full_check=True)
    assert "BatchNormalization" not in op_types(finished)
    np.testing.assert_allclose(run(finished, x), run(model, x), rtol=1e-5, atol=1e-6)
    right = stale({})
    for name in ("train", "freeze"):
        given = {"train_batch_norms": "*" if name == "train" else []}
        trained, other = (Training(m, tmp_path / f"{name}{i}", **given) for i, m in enumerate((model, right)))
        labels = np.arange(5) % 4
        loss, gradients = trained.gradients(x, labels)
        want, exact = other.gradients(x, labels)
        assert loss == pytest.approx(want, rel=1e-6)
        assert set(gradients) == set(exact) == {"w", "b", "scale", "bias"}
        for value, gradient in exact.items():
            np.testing.assert_allclose(gradients[value], gradient, rtol=1e-5, atol=1e-6)
    repaired = rewrite(model)
    onnx.checker.check_model(repaired, full_check=True)
    assert rewrite(repaired) == repaired
    assert rewrite(right) == right
    np.testing.assert_allclose(
        run(rewrite(model, train="*"), x), run(rewrite(right, train="*"), x), rtol=1e-5, atol=1e-6
    )
