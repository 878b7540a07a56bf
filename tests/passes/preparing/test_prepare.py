"""What ONNX Runtime's gradient builder cannot follow in an export is computed, copied or dropped before it runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from onnx_cbp.graph_passes.preparing.parameters.drop_zero_bias import DropZeroBiasPass
from onnx_cbp.graph_passes.preparing.parameters.unshare_fixed import UnshareFixedPass
from onnx_cbp.graph_passes.preparing.scalar_ranges import ScalarRangesPass
from onnx_cbp.graph_passes.preparing.simplifying.fold_constants import FoldConstantsPass
from support.models import parse

#: A convolution without a bias and a batch norm without scale and bias, as PyTorch's default exporter writes them.
AFFINE_FREE = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[N, 2, 5, 5] x, float[4, 2, 3, 3] w) => (float[N, 4, 3, 3] y)
<float[4] mean = {0, 1, 2, 3}, float[4] var = {1, 2, 3, 4}>
{
    w_size = Shape <start: int = 0, end: int = 1> (w)
    one_dim = Constant <value_ints = [1]> ()
    size = Expand (w_size, one_dim)
    zero = Constant <value = float {0}> ()
    zero_like = CastLike (zero, x)
    bias = Expand (zero_like, size)
    c = Conv (x, w, bias)
    c_size = Shape <start: int = 1, end: int = 2> (c)
    one = Constant <value_float = 1.0> ()
    scale = Expand (one, c_size)
    B = Expand (zero, c_size)
    y = BatchNormalization (c, scale, B, mean, var)
}
"""


def _run(*passes, model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    changed = ir.from_proto(inferred)
    modified = [step(changed).modified for step in passes]
    result = ir.to_proto(changed)
    onnx.checker.check_model(result, full_check=True)
    return result, modified


def _same(first, second):
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.normal(size=(2, 2, 5, 5)).astype(np.float32),
        "w": rng.normal(size=(4, 2, 3, 3)).astype(np.float32),
    }
    want, got = (ReferenceEvaluator(model).run(None, feeds) for model in (first, second))
    np.testing.assert_array_equal(got[0], want[0])


def test_what_depends_on_no_data_is_computed():
    model = parse(AFFINE_FREE)
    result, modified = _run(FoldConstantsPass(), DropZeroBiasPass(()), model=model)
    assert modified == [True, True]
    assert [node.op_type for node in result.graph.node] == ["Conv", "BatchNormalization"]
    assert len(result.graph.node[0].input) == 2
    _same(model, result)


@pytest.mark.parametrize(
    "change",
    [
        ("Expand (one, c_size)", "Mul (mean, var)"),  # parameters: they may be trained
        ("Shape <start: int = 1, end: int = 2> (c)", "Shape <start: int = 0, end: int = 1> (x)"),  # not fixed
    ],
)
def test_what_is_not_known_stays(change):
    changed = ir.from_proto(parse(AFFINE_FREE.replace(*change)))
    FoldConstantsPass()(changed)
    (batch_norm,) = [node for node in changed.graph if node.op_type == "BatchNormalization"]
    assert batch_norm.inputs[1].producer() is not None


def test_a_bias_that_trains_or_is_not_zero_stays():
    text = AFFINE_FREE.replace("<float[4] mean", "<float[4] b = {0, 0, 0, 0}, float[4] mean").replace(
        "(x, w, bias)", "(x, w, b)"
    )
    for source, trained in ((text, ["b"]), (text.replace("b = {0, 0", "b = {0, 1"), [])):
        result, modified = _run(DropZeroBiasPass(trained), model=parse(source))
        assert modified == [False]
        assert "b" in {name for node in result.graph.node for name in node.input}
    assert _run(DropZeroBiasPass(()), model=parse(text))[1] == [True]


TWO = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[N, 2, 5, 5] x, float[4, 2, 3, 3] w, float[4] fed) => (float[N, 4, 3, 3] y)
<float[4] one = {1, 1, 1, 1}, float[4] zero = {0, 0, 0, 0}, float[4] mean = {0, 1, 2, 3}, float[4] var = {1, 2, 3, 4}>
{
    c = Conv (x, w)
    first = BatchNormalization (c, one, zero, mean, var)
    second = BatchNormalization (first, one, zero, mean, var)
    third = BatchNormalization (second, fed, fed, mean, var)
    y = BatchNormalization (third, fed, zero, mean, var)
}
"""


def test_what_is_not_trained_is_not_shared():
    model = parse(TWO)
    result, modified = _run(UnshareFixedPass(["fed"]), model=model)
    assert modified == [True]
    read = [tuple(node.input[1:3]) for node in result.graph.node if node.op_type == "BatchNormalization"]
    assert [pair[0] for pair in read] == ["one", read[1][0], "fed", "fed"]
    assert read[2] == ("fed", "fed")
    assert len({*read[0], *read[1], read[3][1]}) == 5
    result, _ = _run(UnshareFixedPass(()), model=model)
    assert [node.op_type for node in result.graph.node].count("Identity") == 2


def test_nothing_shared_is_nothing_changed():
    changed = ir.from_proto(parse(AFFINE_FREE))
    assert not UnshareFixedPass(())(changed).modified


@pytest.mark.parametrize(
    "shape", ["Identity (none)", "Expand (zero, sizes)", "Unsqueeze (flat, one)", "Cast <to = 1> (wide)"]
)
def test_zeros_that_are_no_vector_are_no_bias(shape):
    """As PyTorch's default exporter writes a Conv3d without one; ONNX Runtime computes none of these."""
    model = parse(f"""
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[N, 2, 5, 5] x, float[4, 2, 3, 3] w) => (float[N, 4, 3, 3] y)
<float zero = {{0}}, int64[2] sizes = {{4, 2}}, float[4] flat = {{0, 0, 0, 0}}, int64[1] one = {{1}},
 float[0] none = {{}}, double[4, 1] wide = {{0, 0, 0, 0}}, float[4] kept = {{0, 0, 0, 0}},
 float[4, 2] other = {{0, 0, 0, 0, 0, 0, 0, 1}}>
{{ b = {shape} y = Conv (x, w, b) proper = Conv (x, w, kept) full = Conv (x, w, other) }}
""")
    changed = ir.from_proto(model)
    assert DropZeroBiasPass(misshapen=True)(changed).modified
    read = {node.outputs[0].name: len(node.inputs) for node in changed.graph if node.op_type == "Conv"}
    assert read == {"y": 2, "proper": 3, "full": 3}
    assert not DropZeroBiasPass(misshapen=True)(changed).modified


@pytest.mark.parametrize("rank", [1, 0])
def test_a_range_gets_single_numbers(rank):
    shape = "[1]" if rank else ""
    model = parse(f"""
<ir_version: 8, opset_import: ["" : 18]>
agraph (int64{shape} limit, bool b) => (int64[K] y, int64[L] z)
<int64{shape} start = {{0}}, int64 step = {{1}}>
{{
    y = Range (start, limit, step)
    z = If (b) < then_branch = t () => (int64[A] p) {{ p = Range (limit, start, step) }},
                 else_branch = e () => (int64[B] q) {{ q = Range (start, limit, step) }} >
}}
""")
    changed = ir.from_proto(model)
    assert ScalarRangesPass()(changed).modified == bool(rank)
    result = ir.to_proto(changed)
    onnx.checker.check_model(result, full_check=True)
    feeds = {"limit": np.full((1,) * rank, 4), "b": np.array(False)}
    for value in ReferenceEvaluator(result).run(None, feeds):
        np.testing.assert_array_equal(value, range(4))
    assert not ScalarRangesPass()(changed).modified


def test_a_gemm_keeps_what_its_opset_asks_for():
    text = """
<ir_version: 8, opset_import: ["" : OPSET]>
agraph (float[N, 2] x, float[2, 4] w) => (float[N, 4] y) <float[4] b = {0, 0, 0, 0}> { y = Gemm (x, w, b) }
"""
    for opset, kept in ((9, 3), (11, 2), (13, 2)):
        changed = ir.from_proto(parse(text.replace("OPSET", str(opset))))
        DropZeroBiasPass()(changed)
        assert [len(node.inputs) for node in changed.graph] == [kept]
