"""Nodes of our ops may leave out attributes that have a default: each function reads them as if they were written."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_cbp
from onnx_cbp.graph_passes.differentiating import DifferentiatePass
from onnx_cbp.ir_models import to_ir, to_proto
from support.models import parse
from support.ops import session

STATISTICS = "axis: int = 1, epsilon: float = 0.00001"
UPDATE = f"{STATISTICS}, momentum: float = 0.9, unbiased: int = 0"
WINDOWS = "strides: ints = [1], pads: ints = [0, 0], dilations: ints = [1]"
#: Nodes that make `r` with "<>" for their attributes, and the attributes that those stand for.
CASES = {
    "ChannelStats": ("m, r, n = onnx_cbp.ChannelStats <> (x)", "axis: int = 1, stash_type: int = 1"),
    "ChannelNormalize": ("r = onnx_cbp.ChannelNormalize <> (x, s, b, s, s)", STATISTICS),
    "RunningStats": ("r = onnx_cbp.RunningStats <> (p, b, c)", "momentum: float = 0.9, unbiased: int = 0"),
    "BatchNormTrain": ("r, m, v, n = onnx_cbp.BatchNormTrain <> (x, s, b)", STATISTICS),
    "BatchNormTrainUpdate": (
        "r, m, v, n, u = onnx_cbp.BatchNormTrainUpdate <> (x, s, b, b, s)",
        f"{UPDATE}, relu: int = 0",
    ),
    "BatchNormReluTrainUpdate": ("r, m, v, n, u, k, o = onnx_cbp.BatchNormReluTrainUpdate <> (x, s, b, b, s)", UPDATE),
    "DirectConv": ("r = onnx_cbp.DirectConv <kernel_shape: ints = [2] ,> (x, w)", WINDOWS),
}


def models(name: str) -> list[onnx.ModelProto]:
    """The model without the attributes that have defaults, and with them."""
    node, attributes = CASES[name]
    bare = node.replace("<>", "").replace(" ,>", ">")
    written = node.replace("<>", f"<{attributes}>").replace(" ,>", f", {attributes}>")
    return [
        parse(
            f"""<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1]>
            agraph (float[N, 3, 4] x, float[3] s, float[3] b, float[2, 3, 2] w, int64 c) => (float loss)
            {{
                p = ReduceMean <axes = [0, 2], keepdims = 0> (x)
                {each}
                q = Mul (r, r)
                h = Mul (q, r)
                loss = ReduceSum <keepdims = 0> (h)
            }}"""
        )
        for each in (bare, written)
    ]


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"x": (5, 3, 4), "s": (3,), "b": (3,), "w": (2, 3, 2)}
    return {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in shapes.items()} | {"c": np.array(20)}


def portable(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx_cbp.rewrite(model, portable=True)


def with_gradient(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the gradient of x, from a model that came through no door."""
    result = ir.from_proto(model)
    DifferentiatePass("loss", ["x"])(result)
    return portable(ir.to_proto(result))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("made", [portable, with_gradient], ids=["portable", "differentiated"])
def test_they_count_as_written(made, name):
    bare, written = (made(each) for each in models(name))
    given = feeds()
    for got, want in zip(*(session(each, None).run(None, given) for each in (bare, written)), strict=True):
        np.testing.assert_array_equal(got, want)
        assert np.abs(want).max() > 0


@pytest.mark.parametrize("name", CASES)
def test_they_are_written_when_a_model_comes_in(name):
    bare, written = models(name)
    assert onnx_cbp.inspect(bare) == onnx_cbp.inspect(written)
    nodes = [next(node for node in to_ir(each).graph if node.domain == "onnx_cbp") for each in (bare, written)]
    values = [{name: attribute.value for name, attribute in node.attributes.items()} for node in nodes]
    assert values[0] == values[1]


def test_a_caller_of_a_function_may_leave_them_out():
    text = """<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1, "local" : 1]>
    agraph (float[N, 3, 4] x, float[3] s, float[3] b) => (float[N, 3, 4] y) { y = local.F (x, s, b) }
    <domain: "local", opset_import: ["" : 17, "onnx_cbp" : 1]>
    F <epsilon> (fx, fs, fb) => (fy) { fy, m, v, n = onnx_cbp.BatchNormTrain <epsilon: float = @epsilon> (fx, fs, fb) }
    """
    (site,) = onnx_cbp.inspect(parse(text))
    assert site.state == "done"
    made = portable(parse(text))
    x = feeds()["x"]
    (y,) = session(made, None).run(None, {"x": x, "s": np.ones(3, np.float32), "b": np.zeros(3, np.float32)})
    np.testing.assert_allclose(y.mean(axis=(0, 2)), 0, atol=1e-5)
    (node,) = [node for node in made.graph.node if node.domain == "onnx_cbp"]
    assert {each.name for each in node.attribute} == {"axis", "epsilon"}


def test_the_model_of_the_caller_stays_as_it_is():
    bare, _ = models("BatchNormTrain")
    before = bare.SerializeToString()
    to_proto(to_ir(bare), bare)
    assert onnx_cbp.rewrite(bare) == bare
    assert bare.SerializeToString() == before
