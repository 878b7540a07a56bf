"""Sequences whose elements are known become tensors; what is not known stays. ONNX Runtime judges."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_cbp.graph_passes import UnpackSequencesPass
from support.models import op_types, parse
from support.running import assert_same_results

X = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)

#: What takes elements of a sequence out again, and what it becomes.
UNPACKED = {
    "sizes": (
        "s = SplitToSequence <axis = 1> (x, uneven) p = SequenceAt (s, i0) q = SequenceAt (s, i1) "
        "y = Concat <axis = 1> (q, p)",
        {"Split"},
    ),
    "one size": (
        "s = SplitToSequence <axis = 2> (x, two) p = SequenceAt (s, i2) q = SequenceAt (s, i0) "
        "y = Concat <axis = 2> (q, p)",
        {"Split"},
    ),
    "axis and index from behind": (
        "s = SplitToSequence <axis = -2> (x, uneven) p = SequenceAt (s, last) q = SequenceAt (s, last) y = Add (p, q)",
        {"Split", "Identity"},
    ),
    "slices": (
        "s = SplitToSequence <axis = 1> (x) p = SequenceAt (s, i0) q = SequenceAt (s, i2) y = Add (p, q)",
        {"Split"},
    ),
    "slices without their axis": (
        "s = SplitToSequence <axis = 1, keepdims = 0> (x) p = SequenceAt (s, i0) q = SequenceAt (s, i1) y = Sub (p, q)",
        {"Split", "Squeeze"},
    ),
    "constructed": (
        "r = Relu (x) s = SequenceConstruct (x, r) p = SequenceAt (s, i1) q = SequenceAt (s, i0) y = Mul (p, q)",
        {"Identity"},
    ),
    "an output": (
        "s = SplitToSequence <axis = 1> (x, uneven) y = SequenceAt (s, i1) z = Neg (y)",
        {"Split"},
    ),
    "joined again": (
        "s = SplitToSequence <axis = 1> (x, uneven) y = ConcatFromSequence <axis = -2> (s)",
        {"Split", "Concat"},
    ),
    "joined, and one of them": (
        "s = SplitToSequence <axis = 1> (x, uneven) p = SequenceAt (s, i0) q = ConcatFromSequence <axis = 1> (s) "
        "y = Concat <axis = 1> (q, p)",
        {"Split", "Concat"},
    ),
    "constructed and joined": (
        "r = Relu (x) s = SequenceConstruct (x, r) q = ConcatFromSequence <axis = 2> (s) y = Neg (q)",
        {"Concat"},
    ),
    "joined in a branch": (
        """s = SplitToSequence <axis = 1> (x, uneven)
           y = If (c) <then_branch = t () => (float[N, A, B] a) { a = ConcatFromSequence <axis = 1> (s) },
                       else_branch = e () => (float[N, A, B] b) { p = SequenceAt (s, i1) b = Neg (p) }>""",
        {"Split"},
    ),
    "read in a branch": (
        """s = SplitToSequence <axis = 1> (x, uneven)
           y = If (c) <then_branch = t () => (float[N, A, B] a) { a = SequenceAt (s, i0) },
                       else_branch = e () => (float[N, A, B] b) { p = SequenceAt (s, i1) b = Neg (p) }>""",
        {"Split"},
    ),
    "made in a branch": (
        """y = If (c) <then_branch = t () => (float[N, A, B] a)
               { s = SplitToSequence <axis = 1> (x, uneven) p = SequenceAt (s, i0) a = SequenceAt (s, i1) },
                       else_branch = e () => (float[N, A, B] b) { b = Identity (x) }>""",
        set(),
    ),
}
#: What is done with a sequence that is to stay.
KEPT = {
    "index that is fed": "s = SplitToSequence <axis = 1> (x, uneven) y = SequenceAt (s, fed)",
    "sizes that are fed": "k = Abs (fed) s = SplitToSequence <axis = 1> (x, k) y = SequenceAt (s, i0)",
    "number that is not known": "s = SplitToSequence <axis = 0> (x, two) y = SequenceAt (s, i0)",
    "read as a whole": "s = SplitToSequence <axis = 1> (x, uneven) y = SequenceAt (s, i0) n = SequenceLength (s)",
    "stacked": (
        "s = SplitToSequence <axis = 1> (x, two) p = ConcatFromSequence <axis = 0, new_axis = 1> (s) "
        "y = ReduceMean <axes = [0], keepdims = 0> (p)"
    ),
}


def _model(body: str, opset: int) -> onnx.ModelProto:
    return parse(f"""<ir_version: 8, opset_import: ["" : {opset}]>
agraph (float[N, 4, 5] x, bool c, int64 fed) => (float[L, M, K] y)
<int64[2] uneven = {{3, 1}}, int64 two = {{2}}, int64 i0 = {{0}}, int64 i1 = {{1}}, int64 i2 = {{2}},
 int64 last = {{-1}}>
{{ {body} }}""")


def _unpack(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    result = UnpackSequencesPass()(ir.from_proto(model))
    return ir.to_proto(result.model), result.modified


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("name", UNPACKED)
def test_elements_are_tensors(name, opset):
    body, ops = UNPACKED[name]
    model = _model(body, opset)
    if name == "slices without their axis":
        del model.graph.output[0].type.tensor_type.shape.dim[0]
    unpacked, modified = _unpack(model)
    assert modified
    onnx.checker.check_model(unpacked, full_check=True)
    assert "Sequence" not in str(unpacked)
    assert ops <= set(op_types(unpacked))
    for flag in (True, False):
        assert_same_results(unpacked, model, {"x": X, "c": np.array(flag), "fed": np.array(1)})
    values = [name for node in model.graph.node for name in node.output if name != "s"]
    assert set(values) <= {name for node in unpacked.graph.node for name in node.output}
    assert not _unpack(unpacked)[1]


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_known_stays(name):
    model = _model(KEPT[name], 17)
    unpacked, modified = _unpack(model)
    assert not modified
    assert op_types(unpacked) == op_types(model)


def test_an_index_that_is_none_is_the_runtimes_to_refuse():
    model = _model("s = SplitToSequence <axis = 1> (x, uneven) y = SequenceAt (s, i2)", 17)
    assert not _unpack(model)[1]
