"""Functions that odd calls are made of: each verb gives its result, or one line."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.ops import session
from support.refusals import refusals

VERBS = {
    "inspect": onnx_cbp.inspect,
    "rewrite": onnx_cbp.rewrite,
    "train": lambda model: onnx_cbp.rewrite(model, train="*"),
    "synchronize": lambda model: onnx_cbp.rewrite(model, train="*", synchronize=True),
    "finalize": onnx_cbp.finalize,
    "update_bn": lambda model: onnx_cbp.update_bn(model, [np.ones((2, 3, 2, 2), np.float32)]),
}
MODEL = """
<ir_version: 8, opset_import: ["" : {opset}, "local" : 1, "onnx_cbp" : 1]>
agraph (float[N, 3, 2, 2] x) => (float[N, 3, 2, 2] y)
<float[3] s = {{1.5, 0.5, -2}}, float[3] b = {{0.5, 0, 1}}, float[3] m = {{1, -2, 0.25}}, float[3] v = {{0.5, 4, 1}}>
{{
    {call}
    y = BatchNormalization (q, s, b, m, v)
}}
<domain: "{domain}", opset_import: ["" : {inner}, "onnx_cbp" : 1]>
{name}{attributes} ({formals}) => ({results})
{{
    {body}
}}
"""


def model(call, body, *, formals="a", results="r", opset=17, **more):
    given = {"name": "f", "attributes": "", "domain": "local", "inner": opset} | more
    return onnx.parser.parse_model(
        MODEL.format(call=call, body=body, formals=formals, results=results, opset=opset, **given)
    )


def said_by(made):
    return refusals({name: partial(verb, made) for name, verb in VERBS.items()})


@pytest.mark.parametrize(
    "body",
    [
        "r = Cast <to: int = @p> (a)",
        "axes = Constant <value_ints: ints = @p> () r = Reshape (a, axes)",
        "r = Concat <axis: int = @p> (a, a)",
        "r = onnx_cbp.DirectConv <kernel_shape: ints = @p> (a, a)",
    ],
)
def test_a_call_without_an_attribute_that_an_op_needs(body):
    said = said_by(model("q = local.f (x)", body, attributes="<p>"))
    assert said.keys() == VERBS.keys()
    assert all("gives no attribute 'p'" in each for each in said.values())


def test_a_default_is_an_attribute_that_is_given():
    made = model("q = local.f (x)", "r = Cast <to: int = @p> (a)", attributes="<p: int = 1>")
    assert "rewrite" not in said_by(made)
    assert [node.op_type for node in onnx_cbp.finalize(made).graph.node] == ["Cast", "BatchNormalization"]


@pytest.mark.parametrize(("given", "wanted"), [("[0, 1, 2, 3]", "INT"), ("1", "INTS")])
def test_an_attribute_that_two_ops_take_for_two_types(given, wanted):
    body = "c = Softmax <axis: int = @p> (a) r = Transpose <perm: ints = @p> (c)"
    said = said_by(model(f"q = local.f <p = {given}> (x)", body, attributes="<p>"))
    assert said.keys() == VERBS.keys()
    assert all(f"takes for {wanted}" in each.split(", which the ")[1] for each in said.values())
    assert "rewrite" not in said_by(model("q = Relu (x)", body, attributes="<p>"))  # nobody calls it


GATHERED = """
    mean, var, count = onnx_cbp.ChannelStats <axis = 1, stash_type = 1> (a)
    means, vars, counts = onnx_cbp.AllGather <group: string = @p, layer: string = @p> (mean, var, count)
    M, V, C = onnx_cbp.ChannelStatsMerge (means, vars, counts)
    r = onnx_cbp.ChannelNormalize <axis = 1, epsilon = 0.1> (a, M, M, M, V)
"""


@pytest.mark.parametrize("call", ["q = Relu (x)", 'q = local.f <p = "world"> (x)'])
def test_ops_of_ours_that_take_attributes_from_a_caller(call):
    made = model(call, GATHERED, attributes="<p>")
    assert "inspect" not in said_by(made)
    assert any(site.state == "done" for site in onnx_cbp.inspect(made)) == ("local.f" in call)


@pytest.mark.parametrize(("inner", "opset", "wrong"), [(14, 12, "training_mode = 1.5"), (8, 15, "spatial = 1.5")])
def test_a_batch_norm_of_another_opset_with_an_attribute_of_another_type(inner, opset, wrong):
    body = f"r = BatchNormalization <{wrong}> (a, a, a, a, a)"
    said_by(model("q = local.f (x)", body, inner=inner, opset=opset))


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
@pytest.mark.parametrize(
    ("name", "formals", "body", "call"),
    [
        ("Identity", "a", "r = Neg (a)", "q = Identity (x)"),
        ("Transpose", "a", "r = Neg (a)", "q = Transpose <perm = [0, 1, 3, 2]> (x)"),
        ("Identity", "", "r = Constant <value_float = 1.0> ()", "q = Identity (x)"),
    ],
)
@pytest.mark.native
def test_a_function_with_the_name_of_an_op_is_called_by_nobody(name, formals, body, call, domain):
    """As ONNX Runtime has it, whose result the finalized model gives."""
    made = model(call, body, name=name, formals=formals, domain=domain)
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 2)).astype(np.float32)
    (want,) = session(made, "native").run(None, {"x": x})
    assert not said_by(made)
    for verb in (onnx_cbp.finalize, onnx_cbp.rewrite):
        (got,) = session(verb(made), "native").run(None, {"x": x})
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("call", ["q = Identity ()", "q = Identity (x, x)", "q = Transpose <perm = 1.5> (x)"])
def test_such_a_call_is_to_fit_the_op(call):
    name = call.split()[2]
    made = model(call, "r = Constant <value_float = 1.0> ()", name=name, formals="c, d", domain="")
    assert said_by(made).keys() == VERBS.keys()
