"""Our builder spells out the pads of what is dilated: with auto_pad = SAME, ONNX Runtime computes none of it."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp import OnnxCbpError
from support.stepping import Training, network

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
dilated (float[N, 2, H, 7] x) => (float[N, 4] logits)
{
    hidden = Conv <PADS, dilations: ints = [2, 3]STRIDES> (x, w)
    positive = Relu (hidden)
    logits = ReduceMean <axes: ints = [2, 3], keepdims: int = 0> (positive)
}"""
#: The text of `auto_pad`, and the pads that it stands for.
PADS = {"SAME_UPPER": [2, 1, 2, 2], "SAME_LOWER": [2, 2, 2, 1]}


def training(pads: str, folder, strides: str = "", height: int | str = 6):
    weights = {"w": np.random.default_rng(5).normal(size=(4, 2, 3, 2)).astype(np.float32)}
    text = MODEL.replace("PADS", pads).replace("STRIDES", strides)
    return Training(network(text.replace("H, 7", f"{height}, 7"), weights), folder)


@pytest.mark.parametrize("rule", PADS)
def test_gradients_are_those_of_the_pads(rule, tmp_path):
    found = [
        training(pads, tmp_path / str(index)).gradients(
            np.random.default_rng(6).normal(size=(3, 2, 6, 7)).astype(np.float32), np.arange(3)
        )
        for index, pads in enumerate([f'auto_pad: string = "{rule}"', f"pads: ints = {PADS[rule]}"])
    ]
    (loss, gradients), (want, exact) = found
    assert loss == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(gradients["w"], exact["w"], rtol=1e-5, atol=1e-6)


def test_pads_of_a_size_that_is_not_known_are_refused(tmp_path):
    with pytest.raises(OnnxCbpError, match=r"\(Conv\) has auto_pad = SAME_UPPER, and size 2 .* is not known"):
        training('auto_pad: string = "SAME_UPPER"', tmp_path, ", strides: ints = [2, 2]", "H")
