"""Models with function bodies run with no library."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.compose
import onnxruntime
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


WITH_AND_WITHOUT = """<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1]>
agraph (float[N, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v)
    => (float[N, 3, 4] y, float[N, 3, 4] z, float[3] um, float[3] uv)
{ y, a, c, um, uv = onnx_cbp.BatchNormTrainUpdate
    <axis = 1, epsilon = 1e-5, momentum = 0.9, relu = FIRST, unbiased = 1>
    (x, s, b, m, v)
  z, d, e, f, g = onnx_cbp.BatchNormTrainUpdate
    <axis = 1, epsilon = 1e-5, momentum = 0.9, relu = SECOND, unbiased = 0>
    (y, s, b, m, v) }"""


@pytest.mark.parametrize("relus", [(0, 0), (1, 1), (1, 0)])
def test_a_body_is_for_the_attributes_that_all_nodes_have(relus):
    """Choosing when it runs takes passes over the whole data."""
    model = parse(WITH_AND_WITHOUT.replace("FIRST", str(relus[0])).replace("SECOND", str(relus[1])))
    portable = onnx_cbp.rewrite(model, portable=True)
    (body,) = portable.functions
    assert ("Relu" in {node.op_type for node in body.node}) == (1 in relus)
    assert ("relu" in references(body)) == (len(set(relus)) == 2)
    assert "unbiased" in references(body)  # one node has it, the other has not
    x = np.random.default_rng(7).standard_normal((5, 3, 4), np.float32)
    feeds = {"x": x, **{n: np.array([v, 1, 2], np.float32) for n, v in zip("sbmv", (0.5, -1, 3, 4), strict=True)}}
    for own, without_library in zip(run(model, feeds), run(portable, feeds, library=False), strict=True):
        np.testing.assert_allclose(without_library, own, atol=1e-6)
    (other,) = (a for a in portable.graph.node[1].attribute if a.name == "relu")
    other.i = 1 - relus[1]
    (body,) = onnx_cbp.rewrite(portable, portable=True).functions  # the one that was there is for other nodes
    assert ("relu" in references(body)) == (relus[0] != other.i)


def references(body):
    return {attribute.ref_attr_name for node in body.node for attribute in node.attribute}


def run(model, feeds, library=True):
    options = onnxruntime.SessionOptions()
    if library:
        onnx_cbp.register(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def test_a_relu_before_a_body_is_left_to_the_runtime():
    """As a part of the body, batch norms without one would pay for it."""
    model = parse(FORWARD.replace("y, new_mean, new_var =", "n, new_mean, new_var =").rstrip()[:-1] + "y = Relu (n) }")
    folded = {node.op_type for node in onnx_cbp.rewrite(model).graph.node}
    kept = {node.op_type for node in onnx_cbp.rewrite(model, portable=True).graph.node}
    assert "Relu" in kept
    assert "Relu" not in folded
