"""Strides of 0, by which older versions of onnx divide: one line, however a node gets them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from support.refusals import every_verb, refusals

MODEL = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
g (float[N, 3, 6, 6] x) => (float[N, 3, h, v] y)
<float[3, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] ones = {1, 1, 1}>
{ r = CALL  y = BatchNormalization (r, ones, ones, ones, ones) }
<domain: "local", opset_import: ["" : 17]> F <s> (a, k) => (b) { b = Conv <strides: ints = @s> (a, k) }
<domain: "local", opset_import: ["" : 17, "local" : 1]> G <t> (a, k) => (b) { b = local.F <s: ints = @t> (a, k) }
<domain: "local", opset_import: ["" : 17, "local" : 1]> H (a, k) => (b) { b = local.F <s = [1, -1]> (a, k) }
"""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("Conv <strides = [0, 1]> (x, w)", "(Conv) has strides = [0, 1]"),
        ("MaxPool <kernel_shape = [2, 2], strides = [1, 0]> (x)", "(MaxPool) has strides = [1, 0]"),
        ("local.F <s = [0, 0]> (x, w)", "(local.F) has s = [0, 0]"),
        ("local.G <t = [0, 0]> (x, w)", "(local.G) has t = [0, 0]"),
        ("local.F <s = [1, 1]> (x, w)", "(local.F) has s = [1, -1]"),  # that of H
    ],
)
def test_strides_of_0(call, said, tmp_path):
    text = MODEL.replace("CALL", call)
    made = onnx.parser.parse_model(text if "-1" in said else text.replace("[1, -1]", "[1, 1]"))
    verbs = every_verb(made, np.zeros((2, 3, 6, 6), np.float32), tmp_path)
    heard = refusals(verbs)
    assert heard.keys() == verbs.keys()
    assert all(said in each and each.endswith("give numbers of at least 1") for each in heard.values())


def test_a_function_may_call_something_else_strides(tmp_path):
    text = MODEL.replace("CALL", "local.H <strides = [0, 0]> (x, w)").replace("[1, -1]", "[1, 1]")
    made = onnx.parser.parse_model(text)
    heard = refusals(every_verb(made, np.zeros((2, 3, 6, 6), np.float32), tmp_path))
    assert not any("strides" in each for each in heard.values())
