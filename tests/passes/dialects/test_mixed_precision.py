"""Data, parameters and statistics of different types, as BatchNormalization-15 and ONNX Runtime combine them.

Results are judged against float64 on the values as they are rounded to their types: each may be as far off as its own
type's rounding, and no farther, however many elements the statistics are taken over.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import onnx_cbp
from onnx_cbp import distributed
from support.models import op_types
from support.ops import DTYPES, NUMBERS, session

#: X and Y; scale and B; the statistics.
TYPES = [
    ("float32", "float32", "float32"),
    ("float64", "float64", "float64"),
    ("float16", "float16", "float16"),
    ("float16", "float16", "float32"),
    ("float16", "float32", "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("bfloat16", "bfloat16", "float32"),
    ("bfloat16", "float32", "float32"),
    # What ONNX allows beside them.
    ("float32", "float32", "float64"),
    ("float64", "float32", "float32"),
    ("float64", "float64", "float32"),
    ("float32", "float64", "float64"),
    ("float32", "float16", "float32"),
    ("float16", "float32", "float16"),
]
SWITCHES = [{}, {"one_pass": False}, {"synchronize": True}, {"portable": True}]
#: ONNX Runtime's CPU provider has no standard ops for bfloat16, of which function bodies are made.
CASES = [
    pytest.param(types, switches, id=f"{'-'.join(types)}-{switches or 'default'}")
    for types in TYPES
    for switches in SWITCHES
    if types[0] != "bfloat16" or not switches.get("portable")
]
SHAPE = (16, 3, 24, 24)  # 9216 elements a channel: 16-bit sums would be off by far more than one rounding
EPSILON, MOMENTUM = 1e-3, 0.8
_ORT = tuple(int(part) for part in ort.__version__.split(".")[:2])
ULP = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def _values(types):
    """Values of the step, rounded to their types."""
    T, P, S = (DTYPES[name] for name in types)
    rng = np.random.default_rng(7)
    return {
        "x": rng.normal(3.0, 1.0, SHAPE).astype(T),
        "gamma": rng.uniform(0.5, 2.0, 3).astype(P),
        "beta": rng.normal(0.0, 1.0, 3).astype(P),
        "mean": rng.normal(0.0, 1.0, 3).astype(S),
        "var": rng.uniform(0.5, 2.0, 3).astype(S),
        "r_grad": rng.normal(0.2, 1.0, SHAPE).astype(T),
    }


def _reference(values, relu=False):
    """The step in float64."""
    wide = {name: value.astype(np.float64) for name, value in values.items()}
    axes, column = (0, 2, 3), (slice(None), None, None)
    x, gamma = wide["x"], wide["gamma"][column]
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    inv_std = 1 / np.sqrt(var + np.float32(EPSILON))
    x_hat = (x - mean[column]) * inv_std[column]
    y = gamma * x_hat + wide["beta"][column]
    dy = wide["r_grad"] * (y > 0) if relu else wide["r_grad"]
    scale_grad, bias_grad = (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)
    count = x.size / 3
    dx = gamma * inv_std[column] * (dy - bias_grad[column] / count - x_hat * scale_grad[column] / count)
    momentum = float(np.float32(MOMENTUM))
    return {
        "y": np.maximum(y, 0) if relu else y,
        "new_mean": wide["mean"] * momentum + mean * (1 - momentum),
        "new_var": wide["var"] * momentum + var * (1 - momentum),
        "x_grad": dx,
        "gamma_grad": scale_grad,
        "beta_grad": bias_grad,
    }


def _graph(nodes, types, inputs, outputs, opset=17):
    """A model of named values; what is 16 bits wide enters and leaves as float, because numpy cannot feed bfloat16."""
    dtype = dict(zip(("T", "P", "S"), (NUMBERS[name] for name in types), strict=True))
    of = dict.fromkeys(("x", "n", "y", "n_grad", "r_grad", "x_grad"), "T")
    of |= dict.fromkeys(("gamma", "beta", "gamma_grad", "beta_grad"), "P")
    of |= dict.fromkeys(("mean", "var", "new_mean", "new_var", "saved_mean", "saved_inv_std"), "S")
    narrow = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    ins, outs, before, after = [], [], [], []
    for name in (*inputs, *outputs):
        number = dtype[of[name]]
        shape = SHAPE if of[name] == "T" else (3,)
        fed, graph_name = number, name
        if number in narrow:
            fed, graph_name = onnx.TensorProto.FLOAT, f"{name}_wide"
            if name in inputs:
                before.append(helper.make_node("Cast", [graph_name], [name], to=number))
            else:
                after.append(helper.make_node("Cast", [name], [graph_name], to=fed))
        (ins if name in inputs else outs).append(helper.make_tensor_value_info(graph_name, fed, shape))
    known = [
        helper.make_tensor_value_info(name, dtype[kind], SHAPE if kind == "T" else (3,)) for name, kind in of.items()
    ]
    taken = {value.name for value in (*ins, *outs)}
    used = {name for node in nodes for name in (*node.input, *node.output)}
    graph = helper.make_graph(
        [*before, *nodes, *after],
        "mixed",
        ins,
        outs,
        value_info=[value for value in known if value.name in used - taken],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)], ir_version=8
    )


def _forward(types, opset=17):
    node = helper.make_node(
        "BatchNormalization",
        ["x", "gamma", "beta", "mean", "var"],
        ["y", "new_mean", "new_var"],
        epsilon=EPSILON,
        momentum=MOMENTUM,
        training_mode=1,
    )
    return _graph([node], types, ["x", "gamma", "beta", "mean", "var"], ["y", "new_mean", "new_var"], opset)


def _training(types, relu=False):
    """ONNX Runtime's forward and backward nodes, and those of a Relu behind it; scale_grad is of scale's type."""
    forward = helper.make_node(
        "BatchNormInternal",
        ["x", "gamma", "beta", "mean", "var"],
        ["n" if relu else "y", "new_mean", "new_var", "saved_mean", "saved_inv_std"],
        domain="com.microsoft",
        epsilon=EPSILON,
        momentum=MOMENTUM,
    )
    backward = helper.make_node(
        "BatchNormalizationGrad",
        ["n_grad" if relu else "r_grad", "x", "gamma", "saved_mean", "saved_inv_std"],
        ["x_grad", "gamma_grad", "beta_grad"],
        domain="com.microsoft",
        epsilon=EPSILON,
    )
    inputs = ["x", "gamma", "beta", "mean", "var", "r_grad"]
    outputs = ["y", "new_mean", "new_var", "x_grad", "gamma_grad", "beta_grad"]
    between = [
        helper.make_node("Relu", ["n"], ["y"]),
        helper.make_node("ReluGrad", ["r_grad", "y"], ["n_grad"], domain="com.microsoft"),
    ]
    return _graph([forward, *(between if relu else ()), backward], types, inputs, outputs)


def _run(model, values, backend):
    """Results by name of the value before it leaves."""
    run = session(model, backend)
    feeds = {i.name: values[i.name.removesuffix("_wide")] for i in run.get_inputs()}
    narrow = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}
    feeds = {k: v.astype(np.float32) if v.dtype in narrow else v.copy() for k, v in feeds.items()}
    names = [output.name for output in run.get_outputs()]
    return {n.removesuffix("_wide"): v for n, v in zip(names, run.run(names, feeds), strict=True)}


def _check(got, want, types):
    kinds = dict(zip(("T", "P", "S"), types, strict=True))
    # Statistics, and what is made of them, are float at least and double with double parameters.
    inner = 2.0**-52 if types[1] == "float64" else 2.0**-23
    terms = np.prod(SHAPE) / 3
    for name, value in got.items():
        kind = "T" if name in ("y", "x_grad") else "P" if name in ("gamma_grad", "beta_grad") else "S"
        ulp = max(ULP[kinds[kind]], 16 * inner)
        # A gradient of parameters is a sum of so many terms of about 1, each with the rounding of mean and inv_std.
        atol = 4 * inner * terms if kind == "P" else ulp * np.abs(want[name]).max() / 2
        np.testing.assert_allclose(value, want[name], rtol=ulp, atol=atol, err_msg=name)


def _backend(types, switches):
    steps = "one_pass" in switches or "synchronize" in switches
    if steps and (types[0] == "float64") != (types[1] == "float64") and _ORT < (1, 19):
        pytest.skip("before 1.19, ONNX Runtime takes ChannelStats to give statistics of the type of the data")
    if switches.get("portable"):
        return None
    return "auto" if set(types) <= {"float32", "float64"} else "native"


@pytest.mark.native
@pytest.mark.parametrize(("types", "switches"), CASES)
def test_forward(types, switches):
    values = _values(types)
    rewritten = onnx_cbp.rewrite(_forward(types), **switches)
    onnx.checker.check_model(rewritten, full_check=True)
    assert "BatchNormalization" not in op_types(rewritten)
    _check(_run(rewritten, values, _backend(types, switches)), _reference(values), types)


@pytest.mark.native
@pytest.mark.parametrize(("types", "switches"), CASES)
def test_forward_and_backward(types, switches):
    values = _values(types)
    model = _training(types)
    rewritten = onnx_cbp.rewrite(model, **switches)
    onnx.checker.check_model(rewritten, full_check=True)
    assert not {"BatchNormInternal", "BatchNormalizationGrad"} & set(op_types(rewritten))
    plain = _without_writes(rewritten)
    _check(_run(plain, values, _backend(types, switches)), _reference(values), types)


@pytest.mark.native
@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("types", TYPES, ids="-".join)
def test_types_that_the_graph_does_not_state(types, one_pass):
    model, values = _training(types), _values(types)
    del model.graph.value_info[:]
    # What reads a result beside a value of the type that it should have: it loads only where the two are one type.
    for name, like in (("gamma_grad", "gamma"), ("beta_grad", "beta"), ("new_var", "var"), ("saved_mean", "mean")):
        model.graph.node.append(helper.make_node("Concat", [name, like], [f"{name}_and_{like}"], axis=0))
        model.graph.node.append(helper.make_node("Shape", [f"{name}_and_{like}"], [f"{name}_size"]))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}_size", onnx.TensorProto.INT64, [1]))
    switches = {} if one_pass else {"one_pass": False}
    rewritten = onnx_cbp.rewrite(model, **switches)
    results = _run(_without_writes(rewritten), values, _backend(types, switches))
    assert all(value == [6] for name, value in results.items() if name.endswith("_size"))
    _check({n: v for n, v in results.items() if not n.endswith("_size")}, _reference(values), types)


@pytest.mark.native
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("types", TYPES, ids="-".join)
def test_with_a_folded_relu(types, recompute):
    values = _values(types)
    rewritten = onnx_cbp.rewrite(_training(types, relu=True), recompute_relu=recompute)
    onnx.checker.check_model(rewritten, full_check=True)
    assert not {"Relu", "ReluGrad"} & set(op_types(rewritten))
    _check(_run(_without_writes(rewritten), values, "native"), _reference(values, relu=True), types)


@pytest.mark.native
@pytest.mark.parametrize("types", [t for t in TYPES if _ORT >= (1, 19) or (t[0] == "float64") == (t[1] == "float64")])
def test_synchronized_replicas_have_the_statistics_of_the_whole_batch(types):
    values, want = _values(types), _reference(_values(types))
    model = _training(types)
    for value in (*model.graph.input, *model.graph.output):  # a shard is as long as it is
        if len(value.type.tensor_type.shape.dim) == 4:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    for value in model.graph.value_info:
        value.type.tensor_type.ClearField("shape")
    rewritten = _without_writes(onnx_cbp.rewrite(model, synchronize=True))

    def replicate():
        part = (slice(0, 5), slice(5, None))[distributed.rank()]
        return _run(rewritten, {n: v[part] if v.ndim == 4 else v for n, v in values.items()}, "native")

    try:
        first, second = distributed.run_replicas(replicate, 2)
    finally:
        distributed.finalize()
    whole = {name: np.concatenate([first[name], second[name]]) for name in ("y", "x_grad")}
    _check({**whole, **{name: first[name] for name in ("new_mean", "new_var")}}, want, types)
    assert all((first[name] == second[name]).all() for name in ("new_mean", "new_var"))
    # A replica's gradients of parameters are those of its own samples; each is rounded to its type.
    ulp = max(ULP[types[1]], 2.0**-18)
    for name in ("gamma_grad", "beta_grad"):
        parts = np.stack([first[name], second[name]]).astype(np.float64)
        np.testing.assert_allclose(parts.sum(axis=0), want[name], atol=ulp * np.abs(parts).max() + 1e-3)


def _without_writes(model):
    """Without the nodes that write running statistics in place, which only the training build has."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    keep = [node for node in copy.graph.node if node.op_type != "InPlaceAccumulatorV2"]
    del copy.graph.node[:]
    copy.graph.node.extend(keep)
    return copy
