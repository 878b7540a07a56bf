"""ONNX Runtime training artifacts: BatchNormInternal and BatchNormalizationGrad."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.models import TRAINING, op_types, parse
from support.ops import session

NATIVE = pytest.param("native", marks=pytest.mark.native)


def _feeds(seed=0):
    rng = np.random.default_rng(seed)
    feeds = {name: rng.normal(2.0, 1.5, (5, 3, 4, 6)) for name in ("x", "y_grad")}
    feeds |= {name: rng.uniform(0.5, 2.0, 3) for name in ("gamma", "beta")}
    feeds |= {f"running_{name}": rng.uniform(0.5, 2.0, 3) for name in ("mean", "var")}
    return {name: value.astype(np.float32) for name, value in feeds.items()}


def _step(model, backend):
    """Outputs, and the running statistics that the step wrote into what it was fed."""
    feeds = _feeds()
    outputs = session(model, backend).run(None, feeds)
    return [*outputs, feeds["running_mean"], feeds["running_var"]]


def test_the_result_is_a_valid_model():
    model = parse(TRAINING)
    before = model.SerializeToString(deterministic=True)
    rewritten = onnx_cbp.rewrite(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(rewritten, full_check=True)
    types = op_types(rewritten)
    assert "BatchNormInternal" not in types
    assert "BatchNormalizationGrad" not in types
    assert types.count("InPlaceAccumulatorV2") == 2
    assert rewritten.graph.output == model.graph.output, "a training Module's result stays what it was"
    assert onnx_cbp.rewrite(rewritten) == rewritten
    names = {o for node in rewritten.graph.node for o in node.output}
    assert {"y", "new_mean", "new_var", "saved_mean", "saved_inv_std", "x_grad"} <= names


@pytest.mark.training
@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("backend", ["python", NATIVE, "portable"])
def test_results_gradients_and_running_statistics_are_the_originals(backend, one_pass):
    model = parse(TRAINING)
    want = _step(model, None)
    if backend == "portable":
        got = _step(onnx_cbp.rewrite(model, portable=True, one_pass=one_pass), None)
    else:
        got = _step(onnx_cbp.rewrite(model, one_pass=one_pass), backend)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6 * np.abs(theirs).max())
    assert np.abs(want[-1] - _feeds()["running_var"]).max() > 0.05, "the step moved them"


@pytest.mark.training
@pytest.mark.parametrize("level", [0, 1, 2, 99])
def test_running_statistics_are_written_at_every_optimisation_level(level):
    import onnxruntime as ort

    levels = ort.GraphOptimizationLevel
    option = {
        0: levels.ORT_DISABLE_ALL,
        1: levels.ORT_ENABLE_BASIC,
        2: levels.ORT_ENABLE_EXTENDED,
        99: levels.ORT_ENABLE_ALL,
    }[level]
    feeds = _feeds()
    rewritten = onnx_cbp.rewrite(parse(TRAINING))
    session(rewritten, "auto", graph_optimization_level=option).run(None, feeds)
    np.testing.assert_allclose(feeds["running_var"], _step(parse(TRAINING), None)[-1], rtol=1e-6)


SHARED = """
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3] x, float[3] gamma, float[3] beta, float[3] running_mean, float[3] running_var)
    => (float[N, 3] y)
{
    a, am, av, as, ai = com.microsoft.BatchNormInternal <momentum: float = 0.8>
        (x, gamma, beta, running_mean, running_var)
    b = Sigmoid (a)
    y, bm, bv, bs, bi = com.microsoft.BatchNormInternal <momentum: float = 0.8>
        (b, gamma, beta, running_mean, running_var)
}
"""


def test_layers_that_share_running_statistics_write_them_once():
    rewritten = onnx_cbp.rewrite(parse(SHARED), one_pass=False)
    onnx.checker.check_model(rewritten, full_check=True)
    types = op_types(rewritten)
    assert types.count("RunningStats") == 4
    assert types.count("InPlaceAccumulatorV2") == 2


@pytest.mark.training
@pytest.mark.parametrize("one_pass", [True, False])
def test_layers_that_share_running_statistics_update_them_one_after_the_other(one_pass):
    results = []
    for model, backend in ((parse(SHARED), None), (onnx_cbp.rewrite(parse(SHARED), one_pass=one_pass), "auto")):
        feeds = _feeds()
        feeds = {name: value for name, value in feeds.items() if name != "y_grad"}
        feeds["x"] = feeds["x"].reshape(-1, 3)
        results.append((session(model, backend).run(None, feeds)[0], feeds))
    (want, theirs), (got, ours) = results
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)


def test_a_backward_site_whose_forward_is_elsewhere_counts_for_itself():
    model = parse("""
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, L] x, float[3] gamma, float[3] mean, float[3] inv_std, float[N, 3, L] y_grad)
    => (float[N, 3, L] x_grad, float[3] gamma_grad, float[3] beta_grad)
{
    x_grad, gamma_grad, beta_grad = com.microsoft.BatchNormalizationGrad (y_grad, x, gamma, mean, inv_std)
}""")
    rewritten = onnx_cbp.rewrite(model)
    onnx.checker.check_model(rewritten, full_check=True)
    rng = np.random.default_rng(0)
    feeds = {n: rng.normal(size=(4, 3, 5)).astype(np.float32) for n in ("x", "y_grad")}
    feeds |= {n: rng.uniform(0.5, 2, 3).astype(np.float32) for n in ("gamma", "mean", "inv_std")}
    x_grad, gamma_grad, _ = session(rewritten, "auto").run(None, feeds)
    x_hat = (feeds["x"] - feeds["mean"][:, None]) * feeds["inv_std"][:, None]
    dy = feeds["y_grad"].astype(float)
    np.testing.assert_allclose(gamma_grad, (dy * x_hat).sum((0, 2)), rtol=1e-5)
    mean_terms = dy.mean((0, 2))[:, None] + x_hat * (dy * x_hat).mean((0, 2))[:, None]
    want = (feeds["gamma"] * feeds["inv_std"])[:, None] * (dy - mean_terms)
    np.testing.assert_allclose(x_grad, want, rtol=1e-5, atol=1e-5)


def test_an_input_gradient_that_nothing_asks_for_is_not_computed():
    model = parse(TRAINING)
    model.graph.node[1].output[0] = ""
    del model.graph.output[1]
    rewritten = onnx_cbp.rewrite(model)
    assert "ChannelBackprop" not in op_types(rewritten)
    assert "ChannelBackpropStats" in op_types(rewritten)
    onnx.checker.check_model(rewritten, full_check=True)


def test_running_statistics_that_are_constants_are_reported():
    model = parse(TRAINING)
    for name, index in (("running_var", 4), ("running_mean", 3)):
        del model.graph.input[index]
        tensor = onnx.numpy_helper.from_array(np.ones(3, np.float32), name)
        model.graph.initializer.append(tensor)
    (forward, _) = onnx_cbp.inspect(model)
    assert "'running_mean'" in forward.explanation
    assert "frozen_params" in forward.explanation
    rewritten = onnx_cbp.rewrite(model)
    assert "InPlaceAccumulatorV2" not in op_types(rewritten), "a merged constant must not be written"
    onnx.checker.check_model(rewritten, full_check=True)


def test_inference_form_is_left_alone():
    model = parse(TRAINING)
    model.graph.node[0].attribute[2].i = 0
    forward, backward = onnx_cbp.inspect(model)
    assert not forward.rewritten
    assert "running statistics" in forward.explanation
    assert backward.rewritten


def test_double_models_get_double_statistics():
    model = parse(TRAINING.replace("float[", "double["))
    rewritten = onnx_cbp.rewrite(model, one_pass=False)
    onnx.checker.check_model(rewritten, full_check=True)
    (stats,) = [n for n in rewritten.graph.node if n.op_type == "ChannelStats"]
    assert {a.name: a.i for a in stats.attribute}["stash_type"] == onnx.TensorProto.DOUBLE


def test_rewritten_batch_norms_are_still_listed():
    findings = onnx_cbp.inspect(onnx_cbp.rewrite(parse(TRAINING)))
    assert [f.form for f in findings] == ["onnx_cbp ops (forward)", "onnx_cbp ops (backward)"]
    assert all("already" in f.explanation for f in findings)


RELU = """
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, H, W] x, float[3] gamma, float[3] beta, float[3] running_mean, float[3] running_var,
        float[N, 3, H, W] y_grad)
    => (float[N, 3, H, W] y, float[N, 3, H, W] x_grad, float[3] gamma_grad, float[3] beta_grad)
{
    n, new_mean, new_var, saved_mean, saved_inv_std =
        com.microsoft.BatchNormInternal <momentum: float = 0.8> (x, gamma, beta, running_mean, running_var)
    y = Relu (n)
    n_grad = com.microsoft.ReluGrad (y_grad, y)
    x_grad, gamma_grad, beta_grad =
        com.microsoft.BatchNormalizationGrad <epsilon: float = 0.00001> (n_grad, x, gamma, saved_mean, saved_inv_std)
}
"""


def test_a_relu_is_folded_both_ways():
    rewritten = onnx_cbp.rewrite(parse(RELU))
    onnx.checker.check_model(rewritten, full_check=True)
    types = op_types(rewritten)
    assert "Relu" not in types
    assert "ReluGrad" not in types
    assert types.count("BatchNormRecomputeReluGrad") == types.count("BatchNormReluTrainUpdate") == 1
    assert [o.name for o in rewritten.graph.output] == ["y", "x_grad", "gamma_grad", "beta_grad"]
    assert onnx_cbp.rewrite(rewritten) == rewritten
    assert {"Relu", "ReluGrad"} <= set(op_types(onnx_cbp.rewrite(parse(RELU), fold_relu=False)))
    assert {"Relu", "ReluGrad"} <= set(op_types(onnx_cbp.rewrite(parse(RELU), one_pass=False)))


@pytest.mark.parametrize("switches", [{"recompute_relu": False}, {"portable": True}])
def test_the_mask_is_read_where_it_is_not_to_be_recomputed(switches):
    rewritten = onnx_cbp.rewrite(parse(RELU), **switches)
    onnx.checker.check_model(rewritten, full_check=True)
    types = op_types(rewritten)
    assert types.count("BatchNormReluGrad") == types.count("BatchNormTrainUpdate") == 1
    assert not {"BatchNormRecomputeReluGrad", "BatchNormReluTrainUpdate", "ReluGrad"} & set(types)
    assert ("Relu" in types) == ("portable" in switches)  # a function body gains nothing by a Relu in it


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gamma, saved_mean", "other_gamma, saved_mean"),  # the gradient of another batch norm
        ("n_grad, x, gamma", "n_grad, other, gamma"),
    ],
)
def test_the_mask_of_a_gradient_with_other_inputs_is_not_recomputed(old, new):
    text = RELU.replace("float[3] gamma,", "float[3] gamma, float[3] other_gamma, float[N, 3, H, W] other,", 1)
    assert old in text
    types = op_types(onnx_cbp.rewrite(parse(text.replace(old, new))))
    assert "BatchNormRecomputeReluGrad" not in types
    assert types.count("BatchNormReluGrad") == 1


@pytest.mark.training
@pytest.mark.parametrize("backend", ["python", NATIVE])
def test_folding_changes_no_bit(backend):
    folded = _step(onnx_cbp.rewrite(parse(RELU)), backend)
    unfolded = _step(onnx_cbp.rewrite(parse(RELU), fold_relu=False), backend)
    for one, two in zip(folded, unfolded, strict=True):
        np.testing.assert_array_equal(one, two)
    original = _step(parse(RELU), None)
    for ours, theirs in zip(folded, original, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=5e-6, atol=5e-6 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("reader", "kept"),
    [
        ("z = Neg (n)", {"Relu"}),  # something else reads the value between batch norm and Relu
        ("z = Neg (n_grad)", {"ReluGrad"}),  # and between their gradients
    ],
)
def test_a_relu_whose_neighbour_is_read_elsewhere_stays(reader, kept):
    text = RELU.replace("float[3] beta_grad)", "float[3] beta_grad, float[N, 3, H, W] z)").replace(
        "saved_inv_std)\n}", f"saved_inv_std)\n    {reader}\n}}"
    )
    types = set(op_types(onnx_cbp.rewrite(parse(text))))
    assert {"Relu", "ReluGrad"} & types == kept


def test_only_one_of_two_relus_is_folded():
    text = RELU.replace("    y = Relu (n)\n", "    r = Relu (n)\n    y = Relu (r)\n")
    rewritten = onnx_cbp.rewrite(parse(text))
    assert op_types(rewritten).count("Relu") == 1
    assert onnx_cbp.rewrite(rewritten) == rewritten


def test_the_metadata_of_a_folded_relu_stays():
    model = parse(RELU)
    model.graph.node[1].metadata_props.add(key="pkg", value="layer1.relu")
    (node,) = [n for n in onnx_cbp.rewrite(model).graph.node if n.op_type == "BatchNormReluTrainUpdate"]
    assert {p.key: p.value for p in node.metadata_props} == {"pkg": "layer1.relu"}
