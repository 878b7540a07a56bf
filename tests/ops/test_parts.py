"""Every op has all its parts: schema, documentation, inference, Python op that calls the C++ kernel."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import onnx_cbp
from onnx_cbp.custom_ops import DOMAIN, OPERATORS, python_ops
from onnx_cbp.custom_ops.schemas import register_schemas
from support.gpu import cuda_adapter
from support.models import parse
from support.ops import WITH_PYTHON_OPS, make_case, op_model, run, session


@pytest.mark.parametrize("name", OPERATORS)
def test_the_schema_shows_in_onnx(name):
    register_schemas()
    register_schemas()  # safe to call twice
    schema = onnx.defs.get_schema(name, domain=DOMAIN)
    operator = OPERATORS[name]
    assert [p.name for p in schema.inputs] == [t.name for t in operator.inputs]
    assert [p.name for p in schema.outputs] == [t.name for t in operator.outputs]
    assert set(schema.attributes) == {a.name for a in operator.attributes}
    assert "=" in schema.doc, "documentation gives the formula"


@pytest.mark.parametrize("name", OPERATORS)
def test_onnx_infers_types_and_shapes(name):
    if not hasattr(onnx.defs.OpSchema, "set_type_and_shape_inference_function"):
        pytest.skip(f"onnx {onnx.__version__} takes no inference function for a schema from Python")
    register_schemas()
    case = make_case(name, (2, 3, 4), axis=2)
    model = op_model(case)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = {v.name: v.type.tensor_type for v in inferred.graph.value_info}
    binding = case.operator.bind(case.inputs, case.attributes)
    for t, shape, dtype in zip(case.operator.outputs, binding.output_shapes, binding.output_dtypes, strict=True):
        found = values[f"{t.name}_out"]
        known = tuple(d.dim_value for d in found.shape.dim)
        assert known == ((0, *shape[1:]) if name == "AllGather" else shape)  # how many replicas is not in the model
        assert found.elem_type == helper.np_dtype_to_tensor_dtype(dtype)


@pytest.mark.parametrize("scalar", [0, 1])
@pytest.mark.parametrize("name", [name for name, operator in OPERATORS.items() if operator.has_windows])
def test_onnx_refuses_a_scalar_in_the_place_of_data_or_a_weight(name, scalar):
    if not hasattr(onnx.defs.OpSchema, "set_type_and_shape_inference_function"):
        pytest.skip(f"onnx {onnx.__version__} takes no inference function for a schema from Python")
    register_schemas()
    model = op_model(make_case(name, (2, 3, 4)))
    del model.graph.input[scalar].type.tensor_type.shape.dim[:]
    with pytest.raises(onnx.shape_inference.InferenceError, match=r"'kernel_shape' is \[\d\], for a rank of 0"):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.native
@pytest.mark.parametrize("name", OPERATORS)
def test_onnx_runtime_infers_shapes_of_native_ops(name):
    case = make_case(name, (2, 3, 4))
    model = op_model(case)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    found = [o.shape for o in session(model, "native").get_outputs()]
    shapes = case.operator.bind(case.inputs, case.attributes).output_shapes
    if name == "AllGather":  # how many replicas there are is known when it runs
        assert all(shape[0].startswith("onnx_cbp_unknown_") for shape in found)
        found = [[1, *shape[1:]] for shape in found]
    assert found == [list(shape) for shape in shapes]


@pytest.mark.native
def test_a_size_that_the_vectors_contradict_is_not_handed_on():
    """What a graph declares of a value need not be so: ONNX Runtime warns, and a batch norm of ONNX runs."""
    original = parse(
        """
        <ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 6, 4, 4] x) => (float[N, 1, 4, 4] z, float[4, 4] h)
        <float[6] s = {1, 2, 3, 4, 5, 6}, float[6] b = {0, 0, 0, 1, 1, 1}, float[6] m = {0, 0, 0, 0, 0, 0},
         float[6] v = {1, 1, 1, 1, 1, 1}, float[1, 6, 1, 1] w = {1, -1, 1, -1, 1, -1}>
        {
            h = Relu (x)
            y, m2, v2 = BatchNormalization <training_mode = 1> (h, s, b, m, v)
            z = Conv (y, w)
        }
        """
    )
    X = np.random.default_rng(3).normal(size=(3, 6, 4, 4)).astype(np.float32)
    results = []
    for model in (original, onnx_cbp.rewrite(original)):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        onnx_cbp.register(options, "native")
        results.append(ort.InferenceSession(model.SerializeToString(), options).run(["z"], {"x": X})[0])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("name", WITH_PYTHON_OPS)
def test_the_python_op_calls_the_cpp_kernel(name, monkeypatch):
    calls = []

    def spy(operator, inputs, attributes):
        results = python_ops_call_native(operator, inputs, attributes)
        calls.append(operator.name)
        return results

    python_ops_call_native = python_ops.call_native
    monkeypatch.setattr(python_ops, "call_native", spy)
    case = make_case(name, (2, 3, 4))
    results = run(case, "python")
    onnx_cbp.raise_python_op_error()
    assert calls == [name]
    if cuda_adapter.folder() is not None:
        return  # sessions have other kernels
    for got, want in zip(results, run(case, "native"), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", WITH_PYTHON_OPS)
def test_the_python_op_needs_no_library(name, monkeypatch):
    monkeypatch.setattr(python_ops, "find_library", lambda: None)
    case = make_case(name, (2, 3, 4))
    results = run(case, "python")
    onnx_cbp.raise_python_op_error()
    for got, want in zip(results, case.operator.evaluate(*case.inputs, **case.attributes), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_register_is_safe_to_call_twice():
    options = ort.SessionOptions()
    onnx_cbp.register(options)
    onnx_cbp.register(options)
    model = op_model(make_case("ChannelStats", (2, 3, 4)))
    for _ in range(2):  # one SessionOptions serves several sessions
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_register_names_the_backends_it_knows():
    with pytest.raises(onnx_cbp.OnnxCbpError, match="'auto', 'native', 'python'"):
        onnx_cbp.register(ort.SessionOptions(), "cuda")


@pytest.mark.native
def test_register_refuses_a_second_backend():
    options = ort.SessionOptions()
    onnx_cbp.register(options, "native")
    with pytest.raises(onnx_cbp.OnnxCbpError, match="native ops already"):
        onnx_cbp.register(options, "python")


def test_a_pure_python_installation_says_what_to_do(monkeypatch):
    from onnx_cbp.custom_ops import library

    monkeypatch.setattr(library, "find_library", lambda: None)
    with pytest.raises(onnx_cbp.OnnxCbpError, match="ONNX_CBP_NATIVE"):
        onnx_cbp.get_library_path()
