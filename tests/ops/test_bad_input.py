"""Wrong shapes, types and attributes into every op: one line names op, input and remedy; nothing crashes."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnx_cbp
from onnx_cbp.custom_ops import DOMAIN, OPERATORS, python_ops
from onnx_cbp.custom_ops.library import call_native
from support.gpu import cuda_adapter
from support.ops import NUMBERS, WITH_PYTHON_OPS, make_case, op_model, session

NATIVE = pytest.param("native", marks=pytest.mark.native)
#: Where each op is: what has no Python op is native only.
PLACES = [
    pytest.param(backend, name, marks=[pytest.mark.native] if backend == "native" else [])
    for backend, names in (("python", WITH_PYTHON_OPS), ("native", OPERATORS))
    for name in names
]
INPUTS = [
    pytest.param(*place.values, t.name, marks=place.marks)
    for place in PLACES
    for t in OPERATORS[place.values[1]].inputs
]


def _loose_model(case, **attributes):
    """The op with inputs of unknown shape, so that a wrong one is met at run time."""
    operator = case.operator
    node = helper.make_node(
        operator.name,
        [t.name for t in operator.inputs],
        [f"{t.name}_out" for t in operator.outputs],
        name="the_node",
        domain=DOMAIN,
        **{**case.attributes, **attributes},
    )
    inputs = [
        helper.make_tensor_value_info(name, NUMBERS[value.dtype.name], None) for name, value in case.feeds.items()
    ]
    dtypes = operator.bind(case.inputs, case.attributes).output_dtypes
    outputs = [
        helper.make_tensor_value_info(f"{t.name}_out", NUMBERS[dtype.name], None)
        for t, dtype in zip(operator.outputs, dtypes, strict=True)
    ]
    return helper.make_model(
        helper.make_graph([node], "g", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)],
        ir_version=8,
    )


def _error(backend, case, feeds, **attributes):
    """The one line that running the op ends in."""
    runner = session(_loose_model(case, **attributes), backend)
    if backend == "native":
        with pytest.raises(Exception, match=f"{DOMAIN}.{case.operator.name}") as caught:
            runner.run(None, feeds)
        return str(caught.value)
    runner.run(None, feeds)
    with pytest.raises(onnx_cbp.OnnxCbpError) as caught:
        onnx_cbp.raise_python_op_error()
    onnx_cbp.raise_python_op_error()  # told once
    return str(caught.value)


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("onnx_cbp").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("onnx_cbp").setLevel(logging.NOTSET)


@pytest.mark.parametrize(("backend", "name", "wrong"), INPUTS)
def test_a_wrong_shape_names_op_and_input(backend, name, wrong):
    case = make_case(name, (2, 3, 4))
    value = case.feeds[wrong]
    bad = value.reshape(-1)[:1] if value.ndim != 1 else np.resize(value, value.size + 2)
    if len(case.inputs) == 1 and value.ndim == 1:
        bad = value.reshape(1, -1)  # of a vector alone, every length is right
    message = _error(backend, case, {**case.feeds, wrong: bad})
    assert "\n" not in message.strip()
    assert case.operator.name in message
    first, *others = (t.name for t in case.operator.inputs)
    if name in ("RunningStats", "AllGather", "AllReduce") and wrong == first:
        wrong = others[0]  # whichever of the two is wrong, it is the second that does not fit the first
    assert f"'{wrong}'" in message or (value.ndim == 3 and "'X'" in message)
    if backend == "native":
        assert "the_node" in message


@pytest.mark.parametrize("backend", ["python", NATIVE])
@pytest.mark.parametrize("axis", [3, -4, 99])
@pytest.mark.parametrize("name", [n for n, op in OPERATORS.items() if any(a.name == "axis" for a in op.attributes)])
def test_an_axis_out_of_range(backend, name, axis):
    case = make_case(name, (2, 3, 4))
    message = _error(backend, case, case.feeds, axis=axis)
    assert "'axis'" in message
    assert str(axis) in message


@pytest.mark.parametrize("backend", ["python", NATIVE])
def test_a_negative_count(backend):
    if backend == "native" and cuda_adapter.folder() is not None:
        pytest.skip("the CUDA ops leave counts in the device's memory and do not look at them")
    case = make_case("ChannelBackprop", (2, 3, 4))
    feeds = {**case.feeds, "count": np.array(-1, np.int64)}
    assert "'count'" in _error(backend, case, feeds)


@pytest.mark.parametrize(("backend", "name", "wrong"), INPUTS)
def test_a_type_that_no_overload_takes_is_refused_when_the_session_is_made(backend, name, wrong):
    case = make_case(name, (2, 3, 4))
    model = _loose_model(case)
    for value in model.graph.input:
        if value.name == wrong:
            value.type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(Exception, match=rf"{name}|the_node"):
        session(model, backend)


@pytest.mark.parametrize(("backend", "name"), PLACES)
def test_a_missing_input_is_refused_when_the_session_is_made(backend, name):
    case = make_case(name, (2, 3, 4))
    model = _loose_model(case)
    if len(case.inputs) == 1:
        model.graph.node[0].input.append(case.operator.inputs[0].name)  # one too many, where none can be left out
    else:
        del model.graph.node[0].input[-1]
    with pytest.raises(Exception, match=rf"{name}|the_node"):
        session(model, backend)


@pytest.mark.native
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel_shape", [3]),
        ("kernel_shape", [3, 0]),
        ("kernel_shape", [9, 9]),
        ("strides", [0, 1]),
        ("strides", [1]),
        ("pads", [1, 1]),
        ("pads", [1, 1, -1, 1]),
        ("dilations", [-1, 1]),
        ("dilations", [2**40, 1]),
    ],
)
def test_windows_that_do_not_fit(name, value):
    """The native op and the description say the same, but for their order of words."""
    case = make_case("DepthwiseConvGradWeight", (2, 3, 4, 5))
    with pytest.raises(ValueError, match="'kernel_shape'|'" + name + "'") as described:
        case.operator.bind(case.inputs, {**case.attributes, name: value})
    message = _error("native", case, case.feeds, **{name: value})
    for text in (str(described.value), message):
        assert "\n" not in text.strip()
        assert "shape [2, 3, 4, 5]" in text.replace(",", ", ").replace("  ", " ")


@pytest.mark.native
def test_a_rank_without_space_or_with_too_much():
    case = make_case("DepthwiseConvGradWeight", (2, 3, 4))
    for shape in ((2, 3), (2, 3, 1, 1, 1, 1)):
        feeds = dict.fromkeys(case.feeds, np.ones(shape, np.float32))
        assert "one to three axes of space" in _error("native", case, feeds)


@pytest.mark.native
def test_a_wrong_stash_type():
    case = make_case("ChannelStats", (2, 3, 4))
    with pytest.raises(Exception, match="stash_type"):
        session(_loose_model(case, stash_type=7), "native").run(None, case.feeds)


@pytest.mark.native
@pytest.mark.parametrize("epsilon", [-1.0, float("nan"), float("inf")])
def test_a_wrong_epsilon(epsilon):
    case = make_case("ChannelNormalize", (2, 3, 4))
    with pytest.raises(Exception, match="epsilon"):
        session(_loose_model(case, epsilon=epsilon), "native").run(None, case.feeds)


@pytest.mark.native
@pytest.mark.parametrize("value", [1.5, "1", [1], [1.0], onnx.numpy_helper.from_array(np.array(1))], ids=repr)
def test_an_attribute_of_another_type(value):
    """ONNX Runtime tells it from one that is absent in its message alone."""
    case = make_case("ChannelStats", (2, 3, 4))
    with pytest.raises(Exception, match="attribute 'axis' has the wrong type: it is an int"):
        session(_loose_model(case, axis=value), "native")


def test_python_ops_name_a_stash_type_that_they_do_not_serve():
    case = make_case("ChannelStats", (2, 3, 4))
    model = _loose_model(case, stash_type=TensorProto.DOUBLE)
    session(model, "python").run(None, case.feeds)
    with pytest.raises(onnx_cbp.OnnxCbpError, match="stash_type"):
        onnx_cbp.raise_python_op_error()


@pytest.mark.native
def test_the_c_functions_check_too():
    case = make_case("ChannelNormalize", (2, 3, 4))
    with pytest.raises(ValueError, match="'scale' has shape \\[4\\], expected \\[3\\]"):
        call_native(case.operator, case.replace(scale=np.ones(4, np.float32)).inputs, case.attributes)


def test_the_schema_refuses_what_it_does_not_know():
    from onnx_cbp.custom_ops.schemas import register_schemas

    register_schemas()
    model = op_model(make_case("ChannelStats", (2, 3, 4)))
    onnx.checker.check_model(model)
    (node,) = [n for n in model.graph.node if n.domain == DOMAIN]
    node.attribute.append(helper.make_attribute("nonsense", 1))
    with pytest.raises(onnx.checker.ValidationError, match="nonsense"):
        onnx.checker.check_model(model)


@pytest.mark.parametrize("data", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in WITH_PYTHON_OPS if OPERATORS[name].has_data])
def test_python_ops_refuse_16_bit_data_when_the_session_is_made(name, data):
    # At run time such a tensor would end the process.
    with pytest.raises(Exception, match=name) as caught:
        session(op_model(make_case(name, (2, 3, 4), data=data)), "python")
    assert "16" in str(caught.value)
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3), ValueError("two\nlines")])
@pytest.mark.parametrize("name", WITH_PYTHON_OPS)
def test_a_python_op_answers_where_nan_cannot_be_made(name, error, monkeypatch):
    """Nothing leaves it: not what its kernel raises, and not what is raised while NaN is made of it."""
    operator, case = OPERATORS[name], make_case(name, (2, 3, 4))
    asked = []

    def full(shape, value, dtype):
        asked.append(shape)
        if max(shape, default=1) > 1:
            raise error
        return np_full(shape, value, dtype)

    def fails(*_, **__):
        raise error

    np_full = np.full
    monkeypatch.setattr(np, "full", full)
    monkeypatch.setattr(python_ops, "compute", fails)
    results = python_ops._guarded(operator, *case.inputs, **case.attributes)
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(operator.outputs)
    assert asked
    assert all(np.isnan(r).all() for t, r in zip(operator.outputs, results, strict=True) if t.type != "int64")
    expected = onnx_cbp.OnnxCbpError if isinstance(error, Exception) else type(error)
    with pytest.raises(expected) as told:
        onnx_cbp.raise_python_op_error()
    text = " ".join(str(error).split())  # in one line
    assert str(told.value) == (text or ("MemoryError" if isinstance(error, MemoryError) else ""))


def test_an_output_that_no_memory_holds():
    X, W = np.ones((1, 2, 1)), np.ones((6, 2, 2))
    attributes = {"kernel_shape": (2,), "strides": (1,), "pads": (1, 2**44), "dilations": (1,)}
    with pytest.raises(ValueError, match=r"DirectConv: outputs of shapes \(\(1, 6, 17592186044417\),\) do not fit"):
        OPERATORS["DirectConv"].evaluate(X, W, **attributes)
