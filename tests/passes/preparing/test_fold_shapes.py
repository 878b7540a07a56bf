"""Sizes that are fixed beside a batch that is not, and branches that they decide."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_cbp.graph_passes import FoldShapesPass, InlineBranchesPass
from onnx_cbp.graph_passes.core.values import constants
from support.models import op_types, parse
from support.ops import session

HALF = """
    s = Shape (x)  one = Constant <value_int = 1> ()  c = Gather <axis = 0> (s, one)
    two = Constant <value_int = 2> ()  h = Div (c, two)  z = Constant <value_ints = [0]> ()
    hs = Unsqueeze (h, z)  ax = Constant <value_ints = [1]> ()  v = Slice (x, z, hs, ax)  y = Identity (v)
"""


def _model(nodes: str, shape: str = "N, 6, 4") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> agraph (float[{shape}] x) => (float y) {{ {nodes} }}'
    model = parse(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")  # its rank is for inference to find
    return model


@pytest.mark.parametrize(
    ("nodes", "left", "shape"),
    [
        (HALF, ["Slice", "Identity"], [None, 3, 4]),
        (
            "s = Shape (x)  a = Constant <value_ints = [1]> ()  b = Constant <value_ints = [3]> ()  t = Slice (s, a, b)"
            " m = Constant <value_ints = [-1]> ()  u = Concat <axis = 0> (m, t)  v = Reshape (x, u)  y = Identity (v)",
            ["Reshape", "Identity"],
            [None, 6, 4],
        ),
        (
            "s = Shape <start = 1> (x)  p = ReduceProd <keepdims = 1> (s)  m = Constant <value_ints = [-1]> ()"
            " u = Concat <axis = 0> (m, p)  y = Reshape (x, u)",
            None,
            None,
        ),
        (
            "z = Constant <value_ints = [0]> ()  o = Constant <value_ints = [1]> ()  s = Shape (x)  n = Slice (s, z, o)"
            " m = Constant <value_ints = [3, -1]> ()  u = Concat <axis = 0> (n, m)  v = Reshape (x, u)"
            " y = Identity (v)",
            None,
            [None, 3, 8],
        ),
        ("s = Shape (x)  z = Constant <value_int = 0> ()  n = Gather (s, z)  y = Cast <to = 1> (n)", None, []),
    ],
    ids=[
        "half the channels",
        "two sizes of a view",
        "a product that is not followed",
        "the rest of a view",
        "the batch stays",
    ],
)
def test_fixed_sizes_become_constants(nodes, left, shape):
    before = _model(nodes)
    model = ir.from_proto(before)
    FoldShapesPass()(model)
    again = FoldShapesPass()(model)
    assert not again.modified
    folded = ir.to_proto(model)
    if left is not None:
        assert [each for each in op_types(folded) if each != "Constant"] == left
    if shape:
        (value,) = (value for node in model.graph for value in node.outputs if value.name == "v")
        assert value.shape is not None
        assert [size if isinstance(size, int) else None for size in value.shape] == shape
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, 6, 4)).astype(np.float32)
        (want,), (got,) = (session(each, None).run(None, {"x": x}) for each in (before, folded))
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("rank", [3, 4])
def test_a_branch_that_a_size_decides_is_put_in_place(rank):
    nodes = """
        s = Shape (x)  one = Constant <value_int = 1> ()  c = Gather (s, one)  d = Equal (c, one)
        y = If (d) <then_branch = t () => (float[N, K] a) { ax = Constant <value_ints = [1]> () a = Squeeze (x, ax) },
                    else_branch = left () => (float[N, L, K] b) { t = Tanh (x)  b = Identity (x) }>
    """
    shape = "N, 1, 4" if rank == 3 else "N, 2, 4"
    before = _model(nodes, shape)
    model = ir.from_proto(before)
    FoldShapesPass()(model)
    assert InlineBranchesPass()(model).modified == bool(op_types(before).count("If"))
    assert not InlineBranchesPass()(model).modified
    result = ir.to_proto(model)
    onnx.checker.check_model(result)
    assert "If" not in op_types(result)
    x = np.random.default_rng(0).normal(size=(3, 1 if rank == 3 else 2, 4)).astype(np.float32)
    (got,) = session(result, None).run(None, {"x": x})
    np.testing.assert_array_equal(got, x[:, 0] if rank == 3 else x)


def test_a_branch_that_data_decides_stays():
    nodes = """
        zero = Constant <value = float {0.0}> ()  m = ReduceMax <keepdims = 0> (x)  d = Greater (m, zero)
        y = If (d) <then_branch = t () => (float a) { a = Neg (x) }, else_branch = e () => (float b) { b = Abs (x) }>
    """
    model = ir.from_proto(_model(nodes))
    assert not InlineBranchesPass()(model).modified
    assert "If" in op_types(ir.to_proto(model))


def test_a_weight_that_is_made_of_others_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    """As networks write it that standardise their weights: it took minutes, in every round."""
    computed = []
    evaluate = constants.evaluate

    def watch(node: onnx.NodeProto, *more: object, **options: object) -> np.ndarray | None:
        computed.append(node.op_type)
        return evaluate(node, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(constants, "evaluate", watch)
    weight = "<float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}>"
    nodes = "m = ReduceMean <axes = [1], keepdims = 1> (w)  t = Sub (w, m)  u = MatMul (x, t)"
    text = f'<ir_version: 8, opset_import: ["" : 17]> agraph (float[N, 6, 4] x) => (float[N, k, 2] y) {weight}'
    model = parse(f"{text} {{ {nodes} {HALF.replace('Shape (x)', 'Shape (u)').replace('Slice (x', 'Slice (u')} }}")
    folded = ir.from_proto(model)
    assert FoldShapesPass()(folded).modified
    assert {"ReduceMean", "Sub"} <= set(op_types(ir.to_proto(folded)))
    assert "Sub" not in computed
    assert "ReduceMean" not in computed
