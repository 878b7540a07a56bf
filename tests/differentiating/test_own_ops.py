"""Where ops of ours may be written, gradients are the same as those of standard ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.differentiating import differentiate
from support.models import parse
from support.ops import session

pytestmark = pytest.mark.native

STRIDES, DILATIONS = "strides: ints = [2, 2]", "dilations: ints = [2, 1]"
#: The op, sizes of X, W and Y, attributes, and whether an op of ours makes the gradient of W.
CASES = [
    ("Conv", (20, 9), (20, 1, 3), (20, 9), "group: int = 20, pads: ints = [1, 1]", True),
    ("Conv", (18, 8, 9), (18, 1, 3, 3), (18, 4, 4), f"group: int = 18, {STRIDES}, pads: ints = [1, 0, 0, 0]", True),
    ("Conv", (6, 9, 8), (12, 1, 3, 5), (12, 7, 4), f"group: int = 6, {DILATIONS}, pads: ints = [1, 0, 1, 0]", True),
    ("Conv", (17, 7, 7), (17, 1, 5, 5), (17, 7, 7), 'group: int = 17, auto_pad: string = "SAME_LOWER"', True),
    ("Conv", (4, 3, 4, 5), (4, 1, 2, 3, 3), (4, 2, 4, 3), "group: int = 4, pads: ints = [0, 1, 0, 0, 1, 0]", True),
    # Elements at the end that no window reaches.
    ("Conv", (16, 8, 8), (16, 1, 3, 3), (16, 2, 2), "group: int = 16, strides: ints = [4, 5]", True),
    ("ConvTranspose", (5, 4, 4), (5, 1, 3, 3), (5, 9, 9), "group: int = 5, strides: ints = [2, 2]", True),
    ("ConvTranspose", (5, 4), (5, 1, 2), (5, 11), "group: int = 5, strides: ints = [3]", True),
    ("Conv", (6, 8, 8), (6, 2, 3, 3), (6, 6, 6), "group: int = 3", False),
    ("Conv", (1, 8, 8), (2, 1, 3, 3), (2, 6, 6), "group: int = 1", False),
    ("Conv", (7, 5, 5), (7, 1, 1, 1), (7, 5, 5), "group: int = 7", False),
]


@pytest.mark.parametrize("sizes", ["fixed", "open"])
@pytest.mark.parametrize(("op", "data", "weight", "result", "attributes", "ours"), CASES, ids=str)
def test_gradients_by_an_op_of_ours(op, data, weight, result, attributes, ours, sizes):
    if sizes == "open" and "auto_pad" in attributes:
        pytest.skip("auto_pad asks for fixed sizes")
    rng = np.random.default_rng(0)
    feeds = {
        "X": rng.normal(size=(3, *data)).astype(np.float32),
        "W": rng.normal(size=weight).astype(np.float32),
        "dY": rng.normal(size=(3, *result)).astype(np.float32),
    }
    results = []
    for own_ops in (False, True):
        X, W, Y = (", ".join(map(str, shape)) for shape in (data, weight, result))
        if sizes == "open":
            X, Y = (
                f"{shape[0]}, " + ", ".join(f"{n}{i}" for i in range(len(shape) - 1))
                for n, shape in (("h", data), ("k", result))
            )
        model = ir.from_proto(
            parse(
                f"""<ir_version: 8, opset_import: ["" : 17]>
                agraph (float[N, {X}] X, float[{W}] W, float[N, {Y}] dY) => (float[N, {Y}] Y)
                {{ Y = {op} <{attributes}> (X, W) }}"""
            )
        )
        infer_shapes(model)
        graph = model.graph
        _, value, seed = graph.inputs
        (dW,) = differentiate(model, {graph.outputs[0]: seed}, [value], own_ops=own_ops)
        assert dW is not None
        assert dW.shape == value.shape
        graph.outputs.clear()
        graph.outputs.append(dW)
        found = [node.op_type for node in graph if node.domain == DOMAIN]
        assert found == (["DepthwiseConvGradWeight"] if own_ops and ours else [])
        (got,) = session(ir.to_proto(model), "native").run(None, feeds)
        results.append(got)
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5 * np.abs(results[0]).max())
