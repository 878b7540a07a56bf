"""Biases of zeros that PyTorch's default exporter dropped from a layer are brought back."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnx_cbp.graph_passes import RestoreBiasesPass
from onnx_cbp.training.taking_apart import take_apart

CALL = (
    "%c : [num_users=1] = call_function[target=torch.ops.aten.conv2d.default](args = (%x, %p_a_w, {}), kwargs = {{}})"
)


def _model(text: str, shape: tuple[int, ...], bias="%p_a_c_bias, [1]", rule="RemoveOptionalBiasFromConv"):
    sizes = ",".join(str(size) for size in (2, 3, *[5] * (len(shape) - 2)))
    free = ",".join("abcd"[: len(shape)])
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g (float[{sizes}] x) => (float[{free}] y) {{ y = {text} }}'
    )
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    changed = ir.from_proto(model)
    node = next(iter(changed.graph))
    node.metadata_props["pkg.torch.onnx.fx_node"] = CALL.format(bias)
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'a', 'a.c', 'conv2d']"
    node.metadata_props["pkg.onnxscript.rewriter.rule_name"] = rule
    return changed


@pytest.mark.parametrize(
    ("text", "shape", "size"),
    [
        ("Conv (x, w)", (4, 3, 2, 2), 4),
        ("Conv (x, w)", (4, 3, 2), 4),
        ("ConvTranspose <group = 3> (x, w)", (3, 2, 2, 2), 6),
        ("Gemm (x, w)", (3, 4), 4),
        ("Gemm <transB = 1> (x, w)", (4, 3), 4),
    ],
)
def test_a_bias_of_zeros(text, shape, size):
    model = _model(text, shape)
    restore = RestoreBiasesPass()
    assert restore(model).modified
    assert restore.biases == {"w": "a.c.bias"}
    (node,) = model.graph
    assert node.inputs[2].name == "a.c.bias"
    np.testing.assert_array_equal(node.inputs[2].const_value.numpy(), np.zeros(size, np.float32))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not restore(model).modified


@pytest.mark.parametrize(
    "change", [{"bias": "None, [1]"}, {"bias": "%b_a_c_bias"}, {"rule": "FuseBatchNormIntoConv"}, {"bias": "%val_3"}]
)
def test_a_layer_that_had_none_gets_none(change):
    model = _model("Conv (x, w)", (4, 3, 2, 2), **change)
    assert not RestoreBiasesPass()(model).modified
    assert len(next(iter(model.graph)).inputs) == 2


def test_it_trains_with_its_weight_or_by_its_name(caplog):
    model = ("Conv (x, w)", (4, 3, 2, 2))
    assert take_apart(_model(*model), ["w"], ()) == (["w", "a.c.bias"], [])
    (record,) = [each for each in caplog.records if each.name == "onnx_cbp"]
    assert "'a.c.bias'" in record.message
    assert take_apart(_model(*model), ["a.c.bias"], ()) == (["a.c.bias"], [])
    assert take_apart(_model(*model), ["w"], ["a.c.bias"]) == (["w"], ["a.c.bias"])
    assert take_apart(_model(*model), None, ()) == (None, [])
