"""The table of fusions against what `rewrite` makes."""

from __future__ import annotations

import onnx
import pytest

import onnx_cbp
from onnx_cbp.fusions import FUSIONS
from support.models import TRAINING

#: A batch norm and a ReLU, there and back.
_WITH_RELU = (
    TRAINING.replace("=> (float[N, 3, H, W] y,", "=> (float[N, 3, H, W] activated,")
    .replace(
        "    x_grad,", "    activated = Relu (y)\n    n_grad = com.microsoft.ReluGrad (y_grad, activated)\n    x_grad,"
    )
    .replace("(y_grad, x, gamma", "(n_grad, x, gamma")
)


@pytest.mark.parametrize("number", range(len(FUSIONS)))
def test_a_fusion_is_seen_where_it_is_on_and_only_there(number):
    model = onnx.parser.parse_model(_WITH_RELU)
    on = {fusion.name: index <= number for index, fusion in enumerate(FUSIONS)}
    made = onnx_cbp.rewrite(model, **on).graph.node
    seen = {fusion.name: any(fusion.made(node) for node in made) for fusion in FUSIONS}
    assert seen == on
    assert not any(fusion.made(node) for node in model.graph.node for fusion in FUSIONS)
