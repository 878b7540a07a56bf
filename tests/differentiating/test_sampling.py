"""What GridSample is not differentiated for is said in one line."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnx_cbp import OnnxCbpError
from onnx_cbp.graph_passes.differentiating import differentiate
from support.models import parse


@pytest.mark.parametrize(
    ("attributes", "shape", "message"),
    [
        ('<mode = "cubic">', "N, 2, 4, 5", "mode 'cubic' is not supported: use linear or nearest"),
        ('<padding_mode = "reflection">', "N, 2, 4, 5", "padding_mode 'reflection' is not supported: use zeros or"),
        ("", "N, 2, H, 5", "axis 2 of 'X' has no fixed size"),
        ("", "N, 2, 4, 5, 6", "X has 5 axes, and images of 4 are supported"),
    ],
)
def test_what_is_not_differentiated_is_one_line(attributes: str, shape: str, message: str):
    volume = shape.count(",") > 3
    grid, made = ("N, 3, 3, 3, 3", "N, 2, 3, 3, 3") if volume else ("N, 3, 3, 2", "N, 2, 3, 3")
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    agraph (float[{shape}] X, float[{grid}] grid) => (float[{made}] Y) {{ Y = GridSample {attributes} (X, grid) }}"""
    model = ir.from_proto(parse(text))
    X, Y = model.graph.inputs[0], model.graph.outputs[0]
    with pytest.raises(OnnxCbpError) as raised:
        differentiate(model, {Y: ir.Value(name="dY", type=Y.type, shape=Y.shape)}, [X])
    assert str(raised.value).startswith("node 'Y' (GridSample) cannot be differentiated: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [node.op_type for node in model.graph] == ["GridSample"]
