"""A model that is nothing but a loss is finalized as it is; one that has a network in front loses its loss."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp import OnnxCbpError, finalize
from support.models import op_types, parse
from support.ops import session

ALONE = {
    "l = SoftmaxCrossEntropyLoss (x, y)": ["l"],
    "l = NegativeLogLikelihoodLoss <ignore_index = 1> (x, y, w)": ["l"],
    "l, p = SoftmaxCrossEntropyLoss (x, y)": ["l", "p"],
}


@pytest.mark.parametrize("loss", ALONE)
def test_a_loss_alone(loss):
    results = ", ".join(f"float{'[N, 3]' if name == 'p' else ''} {name}" for name in ALONE[loss])
    model = parse(f"""
<ir_version: 8, opset_import: ["" : 17]>
loss (float[N, 3] x, int64[N] y) => ({results}) <float[3] w = {{1, 2, 3}}> {{ {loss} }}""")
    finished = finalize(model)
    assert [value.name for value in finished.graph.output] == ALONE[loss]
    assert op_types(finished) == op_types(model)


def test_what_feeds_a_loss_that_no_parameter_meets_is_not_known():
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
loss (float[N, 3] x, int64[N] y) => (float l) { h = Relu (x) l = SoftmaxCrossEntropyLoss (h, y) }""")
    with pytest.raises(OnnxCbpError, match=r"what feeds the loss 'l' cannot be told: name .* --output-name$"):
        finalize(model)


def test_a_branch_that_is_known_is_taken_and_its_ranges_get_single_numbers():
    """As in the body of ONNX's AffineGrid, whose original ONNX Runtime loads."""
    model = parse("""
<ir_version: 8, opset_import: ["" : 18]>
grid (int64[4] sizes) => (int64[K] y)
<int64 zero = {0}, int64 one = {1}, int64 four = {4}>
{
    number = Size (sizes)
    is_plane = Equal (number, four)
    H, W = If (is_plane) <
        then_branch = t () => (int64[1] a, int64[1] b) { n, c, a, b = Split <num_outputs = 4> (sizes) },
        else_branch = e () => (int64[1] p, int64[2] q) { m, p, q = Split <num_outputs = 3> (sizes) } >
    steps = Range (zero, W, one)
    y = Add (steps, H)
}""")
    finished = finalize(model)
    assert "If" not in op_types(finished)
    (y,) = session(finished, None).run(None, {"sizes": np.array([1, 2, 10, 5])})
    assert y.tolist() == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_branch_with_other_results_than_its_if_is_refused(left_out):
    model = parse("""
<ir_version: 8, opset_import: ["" : 18]>
known (float[N] x) => (float[N] y) <bool yes = {1}>
{
    y = If (yes) < then_branch = t () => (float[N] a) { a = Neg (x) },
                   else_branch = e () => (float[N] b) { b = Relu (x) } >
}""")
    for attribute in model.graph.node[0].attribute:
        if left_out:
            del attribute.g.output[:]
        else:
            attribute.g.output.add().CopyFrom(attribute.g.output[0])
    with pytest.raises(OnnxCbpError) as error:
        finalize(model)
    assert "\n" not in str(error.value)
