"""Batch norms keep their mode where nothing reads their running statistics."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from onnx_cbp.graph_passes.core.remove_unused_nodes import RemoveUnusedNodesPass
from support.models import op_types, parse

FORM = """
<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[N, 3, 4] y)
{{
    {outputs} = BatchNormalization {attributes} (x, s, b, m, v)
    unread = Relu (normal)
    y = Neg (normal)
}}"""
TRAINING, NONE = "<training_mode: int = 1>", ""


def _cleaned(model):
    made = ir.from_proto(model)
    assert RemoveUnusedNodesPass()(made).modified
    return ir.to_proto(made)


@pytest.mark.parametrize(
    ("opset", "outputs", "attributes"),
    [
        (14, "normal, m2, v2", TRAINING),
        (15, "normal, m2, v2", "<training_mode: int = 1, momentum: float = 0.5>"),
        (17, "normal, m2, v2", TRAINING),
        (9, "normal, m2, v2, sm, sv", NONE),
    ],
)
def test_one_that_trains_still_does(opset, outputs, attributes):
    model = parse(FORM.format(opset=opset, outputs=outputs, attributes=attributes))
    cleaned = _cleaned(model)
    assert op_types(cleaned) == ["BatchNormalization", "Neg"]
    norm = cleaned.graph.node[0]
    assert list(norm.output) == outputs.split(", ")
    assert {a.name: a for a in norm.attribute} == {a.name: a for a in model.graph.node[0].attribute}


@pytest.mark.parametrize(("opset", "attributes"), [(9, NONE), (14, NONE), (17, "<training_mode: int = 0>")])
def test_one_in_inference_form_still_is(opset, attributes):
    norm = _cleaned(parse(FORM.format(opset=opset, outputs="normal", attributes=attributes))).graph.node[0]
    assert list(norm.output) == ["normal"]
    assert not any(a.name == "training_mode" and a.i for a in norm.attribute)


def test_one_in_a_branch_and_in_a_function():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
agraph (float[N, 3] x, bool which, float[3] s) => (float[N, 3] y)
{
    inner = If (which) <
        then_branch = yes () => (float[N, 3] t) {
            t, m, v = BatchNormalization <training_mode: int = 1> (x, s, s, s, s)
            unread = Relu (t)
        },
        else_branch = no () => (float[N, 3] e) { e = Neg (x) }
    >
    y = local.norm (inner, s)
}
<domain: "local", opset_import: ["" : 17]>
norm (x, s) => (y)
{
    y, m, v = BatchNormalization <training_mode: int = 1> (x, s, s, s, s)
    unread = Relu (y)
}""")
    cleaned = _cleaned(model)
    branch = next(a.g for a in cleaned.graph.node[0].attribute if a.name == "then_branch")
    for nodes in (branch.node, cleaned.functions[0].node):
        assert [node.op_type for node in nodes] == ["BatchNormalization"]
        assert onnx.helper.get_node_attr_value(nodes[0], "training_mode") == 1
