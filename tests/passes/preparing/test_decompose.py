"""Pads that are spelled out, and ops in terms of simpler ones: they compute what they computed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnx_cbp import OnnxCbpError
from onnx_cbp.graph_passes import DecomposePass, ExplicitPadsPass
from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.core.values.ancestry import gradient_path
from onnx_cbp.graph_passes.preparing.decompositions import RULES
from support.made_up.op_forms import OTHERS, WINDOWS, Form
from support.models import parse

_OPS = frozenset(RULES) | {"GroupNormalization"}


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def _decompose(model: ir.Model, trained=None) -> bool:
    modified = ExplicitPadsPass()(model).modified
    return DecomposePass(_OPS.__contains__, trained)(model).modified or modified


def _decomposed(model: onnx.ModelProto, trained=None) -> tuple[onnx.ModelProto, bool]:
    changed = ir.from_proto(model)
    modified = _decompose(changed, trained)
    result = ir.to_proto(changed)
    onnx.checker.check_model(result)
    return result, modified


@pytest.mark.parametrize("form", WINDOWS + OTHERS, ids=str)
def test_the_same_is_computed(form: Form):
    model = form.model()
    before = model.SerializeToString(deterministic=True)
    result, modified = _decomposed(model, list(form.values()))
    assert modified
    assert model.SerializeToString(deterministic=True) == before
    assert not any(attribute.name == "auto_pad" for node in result.graph.node for attribute in node.attribute)
    assert [value.name for value in result.graph.output] == ["y"]
    np.testing.assert_allclose(_run(result, form.data()), _run(model, form.data()), rtol=2e-5, atol=2e-5)


def test_a_body_of_the_specification_is_taken_where_there_is_no_rule():
    form = Form("y = GroupNormalization <num_groups = 3> (h, s, b)", opset=21, trained={"s": (3,), "b": (3,)})
    model = form.model()
    if not onnx.defs.get_schema("GroupNormalization", 21).has_context_dependent_function:
        pytest.skip("this onnx has no body for it")
    result, modified = _decomposed(model)
    assert modified
    assert "GroupNormalization" not in {node.op_type for node in result.graph.node}
    x = form.data() + form.values()["P"]
    centred = x - x.mean((2, 3), keepdims=True)
    values = form.values()
    want = centred / np.sqrt((centred**2).mean((2, 3), keepdims=True) + 1e-5)
    want = want * values["s"][:, None, None] + values["b"][:, None, None]
    found = onnx.reference.ReferenceEvaluator(result).run(None, {"x": form.data()})[0]
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pads", [0, 1])
def test_an_average_pool_that_rounds_up_counts_as_pytorch_does(pads):
    """Padding counts, what lies behind it does not; older versions of ONNX Runtime count that, too."""
    form = Form(
        "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, count_include_pad = 1, "
        f"pads = [{pads}, {pads}, {pads}, {pads}]> (h)"
    )
    result, _ = _decomposed(form.model())
    x = np.pad(form.data() + form.values()["P"], ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    starts = [start for start in range(0, 8, 2) if start < 6 + pads]
    starts = starts[: -(-(6 + 2 * pads - 3) // 2) + 1]
    want = np.stack([np.stack([x[:, :, i : i + 3, j : j + 3].mean((2, 3)) for j in starts], -1) for i in starts], -2)
    np.testing.assert_allclose(_run(result, form.data()), want, rtol=1e-5, atol=1e-6)


def test_exponentials_do_not_overflow():
    for op in ("Elu", "Selu", "Celu", "Softplus", "Mish"):
        form = Form(f"y = {op} (h)", (1, 4), opset=18)
        result, _ = _decomposed(form.model())
        x = np.array([[1000.0, -1000.0, 90.0, 0.0]], np.float32)
        found = _run(result, x)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[0, ::2], (x + form.values()["P"])[0, ::2], rtol=0.1)


@pytest.mark.parametrize(
    ("attributes", "size", "pads"),
    [
        ('auto_pad = "SAME_UPPER", dilations = [2]', 6, [2, 2]),
        ('auto_pad = "SAME_UPPER", kernel_shape = [3], strides = [2]', 6, [0, 1]),
        ('auto_pad = "SAME_LOWER", strides = [2]', 6, [1, 0]),
        ('auto_pad = "SAME_LOWER", strides = [4]', 6, [1, 0]),
        ('auto_pad = "SAME_UPPER", strides = [5]', 6, [1, 1]),
        ('auto_pad = "SAME_UPPER", strides = [7]', 6, [0, 0]),
        ('auto_pad = "VALID"', 6, None),
        ('auto_pad = "NOTSET", pads = [1, 2]', 6, [1, 2]),
        ("pads = [1, 2]", 6, [1, 2]),
    ],
)
def test_pads(attributes, size, pads):
    model = ir.from_proto(
        parse(f"""
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 2, {size}] x, float[2, 2, 3] w) => (float[N, 2, v] y) {{ y = Conv <{attributes}> (x, w) }}""")
    )
    assert ExplicitPadsPass()(model).modified == ("auto_pad" in attributes)
    (node,) = model.graph
    assert "auto_pad" not in node.attributes
    found = node.attributes.get("pads")
    assert (None if found is None else list(found.as_ints())) == pads


def test_free_sizes():
    text = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, H, W] x) => (float[N, 3, h, w] y)
{
    a = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)
    y = AveragePool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (a)
}"""
    result, _ = _decomposed(parse(text))
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(_run(result, x), _run(parse(text), x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('Conv <auto_pad = "SAME_UPPER", strides = [2, 1]> (x, w)', r"'conv' \(Conv\) has auto_pad = SAME_UPPER, and"),
        ("AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", r"\(AveragePool\).*size 2"),
        ("MaxPool <kernel_shape = [2, 2], storage_order = 1> (x)", r"\(MaxPool\) has storage_order = 1"),
    ],
)
def test_what_depends_on_a_free_size_is_refused(text, message):
    outputs = "y, i" if "MaxPool" in text else "y"
    model = parse(f"""
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, H, W] x, float[3, 3, 3, 3] w) => (float[N, 3, h, v] y{", int64[N, 3, h, v] i" if "i" in outputs else ""})
{{ {outputs} = {text} }}""")
    model.graph.node[0].name = "conv"
    before = ir.from_proto(model)
    with pytest.raises(OnnxCbpError, match=message) as error:
        _decomposed(model)
    assert "\n" not in str(error.value)
    with pytest.raises(OnnxCbpError):
        _decompose(before)
    assert [node.op_type for node in before.graph] == [model.graph.node[0].op_type]


def test_nothing_unwanted_is_nothing_changed():
    for form in WINDOWS[:2] + OTHERS[:2]:
        changed = ir.from_proto(form.model())
        assert not DecomposePass(lambda op: False)(changed).modified
        ExplicitPadsPass()(changed)
        assert not ExplicitPadsPass()(changed).modified


def test_only_what_has_a_gradient():
    model = ir.from_proto(
        parse("""
<ir_version: 8, opset_import: ["" : 18]>
g (float[N, 4] x) => (float[N, 4] y)
<float[4] w = {1, 2, 3, 4}, float[4] v = {1, 2, 3, 4}>
{
    before = HardSwish (x)
    a = Mul (before, w)
    after = HardSwish (a)
    aside = HardSwish (a)
    size = Shape (aside)
    wide = Expand (after, size)
    y = Mul (wide, v)
}""")
    )
    infer_shapes(model)
    assert {value.name for value in gradient_path(model, ["w"])} == {"w", "a", "after", "wide", "y"}
    assert {value.name for value in gradient_path(model, ["v"])} == {"v", "y"}
    DecomposePass(lambda op: op == "HardSwish", ["w"])(model)
    left = [node.outputs[0].name for node in model.graph if node.op_type == "HardSwish"]
    assert left == ["before", "aside"]
