"""Frozen batch norms: running statistics are constants of the forward pass and of the gradient."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.cli import cli
from support.models import FORWARD, TRAINING, op_types, parse

EPSILON = np.float64(np.float32(0.001))
#: One layer behind another: the first one's Y is what the second normalises.
TWO = """
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, H, W] x, float[3] gamma, float[3] beta, float[3] running_mean, float[3] running_var,
        float[N, 3, H, W] y_grad)
    => (float[N, 3, H, W] y, float[N, 3, H, W] x_grad, float[3] gamma_grad)
{
    [first] h, new_mean, new_var, saved_mean, saved_inv_std =
        com.microsoft.BatchNormInternal <epsilon: float = 0.001, momentum: float = 0.8, training_mode: int = 1>
            (x, gamma, beta, running_mean, running_var)
    [second] y, new_mean2, new_var2, saved_mean2, saved_inv_std2 =
        com.microsoft.BatchNormInternal <epsilon: float = 0.001, momentum: float = 0.8, training_mode: int = 1>
            (h, gamma, beta, running_mean, running_var)
    [second_grad] h_grad, gamma_grad2, beta_grad2 =
        com.microsoft.BatchNormalizationGrad <epsilon: float = 0.001> (y_grad, h, gamma, saved_mean2, saved_inv_std2)
    [first_grad] x_grad, gamma_grad, beta_grad =
        com.microsoft.BatchNormalizationGrad <epsilon: float = 0.001> (h_grad, x, gamma, saved_mean, saved_inv_std)
}
"""


def named(text: str) -> onnx.ModelProto:
    """A model from text, with names for nodes where the installed parser knows none."""
    lines = text.split("\n")
    names = [line.split("[", 1)[1].split("]")[0] for line in lines if line.lstrip().startswith("[")]
    text = "\n".join(line.split("] ", 1)[1] if line.lstrip().startswith("[") else line for line in lines)
    model = parse(text)
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    return model


def values(seed: int = 0, shape: tuple[int, ...] = (4, 3, 5, 2)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(2.0, 3.0, shape).astype(np.float32),
        "gamma": rng.normal(1.0, 0.5, 3).astype(np.float32),
        "beta": rng.normal(0.0, 0.5, 3).astype(np.float32),
        "running_mean": rng.normal(1.0, 1.0, 3).astype(np.float32),
        "running_var": rng.uniform(0.001, 4.0, 3).astype(np.float32),
        "y_grad": rng.normal(0.0, 1.0, shape).astype(np.float32),
    }


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    onnx_cbp.register(options)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def reference(v: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The frozen batch norm and its gradients in float64."""
    v = {name: value.astype(np.float64) for name, value in v.items()}
    along = (1, 3, 1, 1)
    gamma, mean = v["gamma"].reshape(along), v["running_mean"].reshape(along)
    inv_std = (1 / np.sqrt(v["running_var"] + EPSILON)).reshape(along)
    x_hat = (v["x"] - mean) * inv_std
    return {
        "y": gamma * x_hat + v["beta"].reshape(along),
        "x_grad": gamma * inv_std * v["y_grad"],
        "gamma_grad": (v["y_grad"] * x_hat).sum((0, 2, 3)),
        "beta_grad": v["y_grad"].sum((0, 2, 3)),
    }


def test_forward_and_gradients_are_those_of_constant_statistics():
    feeds = values()
    fed = {name: value.copy() for name, value in feeds.items()}
    frozen = onnx_cbp.rewrite(parse(TRAINING), freeze="*")
    onnx.checker.check_model(frozen, full_check=True)
    got, want = run(frozen, feeds), reference(feeds)
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-6, atol=2e-6 * np.abs(value).max())
    for name, value in feeds.items():
        np.testing.assert_array_equal(value, fed[name])


def test_the_reference_is_the_derivative():
    v = {name: value.astype(np.float64) for name, value in values(1, (2, 3, 2, 2)).items()}
    want = reference(v)
    for name in ("x", "gamma"):
        flat = v[name].reshape(-1)
        for index in range(flat.size):
            sides = []
            for step in (1e-6, -1e-6):
                moved = {**v, name: v[name].copy()}
                moved[name].reshape(-1)[index] += step
                sides.append((reference(moved)["y"] * v["y_grad"]).sum())
            assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(want[f"{name}_grad"].reshape(-1)[index], rel=1e-6)


def test_statistics_that_are_constants():
    model, feeds = parse(TRAINING), values()
    for name in ("running_mean", "running_var"):
        model.graph.initializer.append(numpy_helper.from_array(feeds[name], name))
        model.graph.input.remove(next(value for value in model.graph.input if value.name == name))
    got = run(onnx_cbp.rewrite(model, freeze="*"), {k: v for k, v in feeds.items() if "running" not in k})
    for name, value in reference(feeds).items():
        np.testing.assert_allclose(got[name], value, rtol=2e-6, atol=2e-6 * np.abs(value).max())


@pytest.mark.parametrize(
    ("dropped", "gone"),
    [
        (("gamma_grad", "beta_grad"), "ChannelBackpropStats"),
        (("x_grad",), "ConstantOfShape"),
    ],
)
def test_a_gradient_that_nothing_reads_is_not_computed(dropped, gone):
    model, feeds = parse(TRAINING), values()
    assert gone in op_types(onnx_cbp.rewrite(model, freeze="*"))
    for name in dropped:
        model.graph.output.remove(next(value for value in model.graph.output if value.name == name))
    frozen = onnx_cbp.rewrite(model, freeze="*")
    assert gone not in op_types(frozen)
    want = reference(feeds)
    for name, value in run(frozen, feeds).items():
        np.testing.assert_allclose(value, want[name], rtol=2e-6, atol=2e-6 * np.abs(want[name]).max())


def test_statistics_are_neither_updated_nor_written():
    trains = onnx_cbp.rewrite(parse(TRAINING))
    assert op_types(trains).count("InPlaceAccumulatorV2") == 2
    assert "InPlaceAccumulatorV2" not in op_types(onnx_cbp.rewrite(parse(TRAINING), freeze="*"))


def test_who_reads_an_updated_statistic_gets_the_running_one():
    feeds = {name: value for name, value in values().items() if name in ("x", "gamma", "beta")}
    feeds |= {"mean": np.array([1, 2, 3], np.float32), "var": np.array([4, 5, 6], np.float32)}
    got = run(onnx_cbp.rewrite(parse(FORWARD), freeze="*"), feeds)
    np.testing.assert_array_equal(got["new_mean"], feeds["mean"])
    np.testing.assert_array_equal(got["new_var"], feeds["var"])


@pytest.mark.parametrize("one_pass", [True, False])
def test_one_of_two(one_pass):
    some = onnx_cbp.rewrite(named(TWO), freeze="first", one_pass=one_pass)
    onnx.checker.check_model(some, full_check=True)
    train = "BatchNormTrainUpdate" if one_pass else "ChannelStats"
    assert op_types(some).count(train) == 1
    makers = {output: node for node in some.graph.node for output in node.output}
    assert makers["h"].op_type == "ChannelNormalize"
    assert makers["x_grad"].op_type == "ChannelNormalize"
    assert list(makers["x_grad"].input)[4] == "running_var"
    assert makers["h_grad"].op_type == ("BatchNormGrad" if one_pass else "ChannelBackprop")


def test_one_frozen_right_behind_another():
    feeds = values(3)
    both = onnx_cbp.rewrite(named(TWO), freeze="*")
    onnx.checker.check_model(both, full_check=True)
    got = run(both, feeds)
    first = reference(feeds)
    second = reference({**feeds, "x": first["y"]})
    want = reference({**feeds, "y_grad": second["x_grad"]})
    np.testing.assert_allclose(got["y"], second["y"], rtol=1e-5, atol=1e-5 * np.abs(second["y"]).max())
    for name in ("x_grad", "gamma_grad"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5 * np.abs(want[name]).max())


def test_a_frozen_layer_has_nothing_to_synchronize():
    some = onnx_cbp.rewrite(named(TWO), freeze=["first"], synchronize=True)
    gathers = [node for node in some.graph.node if node.op_type == "AllGather"]
    assert [a.s.decode() for node in gathers for a in node.attribute if a.name == "layer"] == ["second"]
    assert op_types(onnx_cbp.rewrite(some, freeze="first", synchronize=True)) == op_types(some)


def test_a_second_rewrite_changes_nothing():
    once = onnx_cbp.rewrite(parse(TRAINING), freeze="*")
    assert onnx_cbp.rewrite(once, freeze="*") == once
    assert onnx_cbp.rewrite(once) == once
    forms = [finding.form for finding in onnx_cbp.inspect(once)]
    assert sorted(forms) == ["onnx_cbp ops (backward)", "onnx_cbp ops (forward, frozen)"]


def test_the_report_says_it():
    findings: list = []
    onnx_cbp.rewrite(named(TWO), freeze="first", report=findings.extend)
    said = {finding.node: finding.explanation.startswith("frozen") for finding in findings}
    assert said == {"first": True, "second": False, "second_grad": False, "first_grad": True}
    assert all(finding.rewritten for finding in findings)


@pytest.mark.parametrize("frozen_scale", [np.float32, np.float64])
def test_the_type_of_the_statistics_is_that_of_the_scale(frozen_scale):
    text = TRAINING if frozen_scale is np.float32 else TRAINING.replace("float[", "double[")
    feeds = {name: value.astype(frozen_scale) for name, value in values().items()}
    tolerance = 2e-6 if frozen_scale is np.float32 else 1e-12
    got = run(onnx_cbp.rewrite(parse(text), freeze="*"), feeds)
    for name, value in reference(feeds).items():
        assert got[name].dtype == frozen_scale
        np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance * np.abs(value).max())


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("third", "freeze: 'third' chooses no batch norm of the model"),
        (["first", "nothing*"], "freeze: 'nothing*' chooses no batch norm of the model"),
        ([1], "freeze: 1 is no name of batch norms"),
        ("", "freeze: '' is no name of batch norms"),
    ],
)
def test_what_chooses_nothing_is_an_error(freeze, message):
    with pytest.raises(OnnxCbpError) as error:
        onnx_cbp.rewrite(named(TWO), freeze=freeze)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_what_trains_already_by_our_ops_cannot_be_frozen():
    with pytest.raises(OnnxCbpError, match=r"node 'first.*' .*cannot be frozen: it is rewritten already; start from"):
        onnx_cbp.rewrite(onnx_cbp.rewrite(named(TWO)), freeze="first")


def test_the_command_line(tmp_path):
    model, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(named(TWO), model)
    done = CliRunner().invoke(cli, ["rewrite", str(model), "-o", str(out), "--freeze", "fir*", "--freeze", "second"])
    assert done.exit_code == 0, done.output
    assert "frozen" in done.output
    assert onnx.load(out) == onnx_cbp.rewrite(named(TWO), freeze=["fir*", "second"])


def test_what_is_found_only_once_its_type_is_known_cannot_be_frozen_either():
    """What one made to train gives had no type, so the arithmetic behind it was read as a batch norm too late."""
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 13, "local" : 1]>
    g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y)
    <
        float[4] s = {1, 2, 3, 4}, float[4] b = {0, 1, 0, 1}, float[4] m = {0, 0, 1, 1}, float[4] v = {1, 1, 2, 2},
        float epsilon = {0.001}, float[1, 4, 1, 1] scale = {1, 2, 1, 2}, float[1, 4, 1, 1] bias = {1, 0, 1, 0}
    >
    {
        h = local.F (x, s, b, m, v)
        mean = ReduceMean <axes = [0, 2, 3]> (h)
        d = Sub (h, mean)
        dd = Mul (d, d)
        var = ReduceMean <axes = [0, 2, 3]> (dd)
        e = Add (var, epsilon)
        std = Sqrt (e)
        n = Div (d, std)
        scaled = Mul (n, scale)
        y = Add (scaled, bias)
    }
    <domain: "local", opset_import: ["" : 17]>
    F (X, s, b, m, v) => (Y) { Y = BatchNormalization (X, s, b, m, v) }""")
    model.functions[0].node[0].name = "first"
    with pytest.raises(OnnxCbpError, match="cannot be frozen: it has no running statistics"):
        onnx_cbp.rewrite(model, train="first", freeze="*")
