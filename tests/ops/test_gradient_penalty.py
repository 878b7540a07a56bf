"""The example of a gradient penalty: its second derivatives are those of finite differences in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.programs.examples import load_example

example = load_example("gradient_penalty")


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("hvp", [False, True])
@pytest.mark.parametrize("backend", ["python", pytest.param("native", marks=pytest.mark.native)])
def test_gradients_are_those_of_finite_differences(backend, hvp, taps):
    model = example.build(taps, hvp=hvp)
    onnx.checker.check_model(model)
    of = example.session(model, backend)
    values = example.random_values(1, taps)
    results = example.run(of, values)
    for name in example.PARAMETERS if backend == "native" else ("w", "B"):
        want = example.finite_differences(of, values, name)
        np.testing.assert_allclose(results[f"d_{name}"], want, atol=1e-6 * np.abs(want).max())
    onnx_cbp.raise_python_op_error()


def test_the_first_derivative_is_that_of_the_loss():
    of = example.session(example.build())
    values = example.random_values(2)
    want = example.finite_differences(of, values, "x", "loss")
    np.testing.assert_allclose(example.run(of, values)["x_grad"], want, atol=1e-6 * np.abs(want).max())


def test_a_descent_on_the_penalty_goes_down(capsys):
    example.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " step " in line]
    penalties = [float(words[3]) for words in lines]
    assert penalties == sorted(penalties, reverse=True)
    assert penalties[-1] < 0.9 * penalties[0]
