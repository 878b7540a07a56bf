"""What RoiAlign is not differentiated for is said in one line."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnx_cbp import OnnxCbpError
from onnx_cbp.graph_passes.differentiating import differentiate
from support.models import parse

_CANNOT = "node 'Y' (RoiAlign) cannot be differentiated"


@pytest.mark.parametrize(
    ("attributes", "opset", "by", "message"),
    [
        ('mode = "max", sampling_ratio = 2', 16, "X", f"{_CANNOT}: mode 'max' is not supported: use avg"),
        ("sampling_ratio = 0", 16, "X", f"{_CANNOT}: sampling_ratio = 0 takes as many points as a region is large"),
        ("sampling_ratio = 2", 15, "X", f"{_CANNOT}: what meets in one place is added up by opset 16 and newer"),
        ("sampling_ratio = 2", 16, "rois", "node 'Y'"),
    ],
)
def test_what_is_not_differentiated_is_one_line(attributes: str, opset: int, by: str, message: str):
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    agraph (float[N, 2, 4, 4] X, float[M, 4] rois, int64[M] images) => (float[M, 2, 1, 1] Y) {{
        Y = RoiAlign <{attributes}> (X, rois, images)
    }}"""
    model = ir.from_proto(parse(text))
    values, Y = {value.name: value for value in model.graph.inputs}, model.graph.outputs[0]
    with pytest.raises(OnnxCbpError) as raised:
        differentiate(model, {Y: ir.Value(name="dY", type=Y.type, shape=Y.shape)}, [values[by]])
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert [node.op_type for node in model.graph] == ["RoiAlign"]
