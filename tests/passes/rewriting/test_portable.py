"""Models with function bodies run with no library."""

from __future__ import annotations

import onnx
import onnx.compose
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.custom_ops import DOMAIN
from support.models import FORWARD, parse


def test_bodies_are_attached_only_when_asked_for():
    model = parse(FORWARD)
    assert not onnx_cbp.rewrite(model).functions
    portable = onnx_cbp.rewrite(model, portable=True)
    onnx.checker.check_model(portable, full_check=True)
    used = {node.op_type for node in portable.graph.node if node.domain == DOMAIN}
    assert {f.name for f in portable.functions} == used


def test_a_rewritten_model_can_be_made_portable_afterwards():
    rewritten = onnx_cbp.rewrite(parse(FORWARD), one_pass=False)
    portable = onnx_cbp.rewrite(rewritten, portable=True)
    assert {f.name for f in portable.functions} == {
        "ChannelStats",
        "ChannelNormalize",
        "RunningStats",
    }
    assert onnx_cbp.rewrite(portable, portable=True) == portable


def test_functions_that_a_tool_has_renamed_are_named():
    portable = onnx_cbp.rewrite(parse(FORWARD), portable=True)
    renamed = onnx.compose.add_prefix(portable, "p/")
    for use in (onnx_cbp.inspect, onnx_cbp.rewrite, onnx_cbp.finalize, lambda model: onnx_cbp.update_bn(model, [])):
        with pytest.raises(OnnxCbpError, match=r"^the function 'onnx_cbp::p/\w+' .* rename_functions=False"):
            use(renamed)
    kept = onnx.compose.add_prefix(portable, "p/", rename_functions=False)
    assert [finding.state for finding in onnx_cbp.inspect(kept)] == ["done"]


def test_an_old_ir_version_that_has_no_functions_is_raised():
    model = parse(FORWARD)
    model.ir_version = 7
    assert onnx_cbp.rewrite(model).ir_version == 7
    assert onnx_cbp.rewrite(model, portable=True).ir_version == 8


def test_types_that_the_opset_cannot_mix_are_refused():
    model = parse(FORWARD.replace("float[", "double[").replace('"" : 17', '"" : 14'))
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"opset 15 or newer.*imports opset 14"):
        onnx_cbp.rewrite(model, portable=True)
    assert onnx_cbp.rewrite(model)


SAID = "double data lose digits where these are float: make them double: node"


@pytest.mark.parametrize("one_pass", [True, False])
def test_double_data_with_float_statistics_are_named(one_pass, caplog):
    """A body computes in the type of the statistics: at an offset of 1e6, float would leave one digit of X."""
    mixed = FORWARD.replace("float[N", "double[N")
    rewritten = onnx_cbp.rewrite(parse(mixed), one_pass=one_pass)
    assert SAID not in caplog.text
    for model in (parse(mixed), rewritten):
        caplog.clear()
        assert onnx_cbp.rewrite(model, portable=True, one_pass=one_pass).functions
        assert SAID in caplog.text
    caplog.clear()
    assert onnx_cbp.rewrite(parse(FORWARD.replace("float[", "double[")), portable=True).functions
    assert SAID not in caplog.text


def test_float_statistics_of_double_data_are_named(caplog):
    text = """<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1]>
    agraph (double[N, 3, 4] x) => (float[3] mean, float[3] var, int64 count)
    { mean, var, count = onnx_cbp.ChannelStats <axis: int = 1, stash_type: int = %d> (x) }"""
    assert onnx_cbp.rewrite(parse(text % 1), portable=True).functions
    assert SAID in caplog.text
    caplog.clear()
    model = parse(text.replace("float[3]", "double[3]") % 11)
    assert onnx_cbp.rewrite(model, portable=True).functions
    assert SAID not in caplog.text
