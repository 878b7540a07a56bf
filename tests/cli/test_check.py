"""`onnx-cbp check`: its verdict as text and as JSON, and what a wrong model gives."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from onnx_cbp.checking import compare
from support.models import FORWARD, TRAINING, fresh_batch_norm, parse

#: A network as ONNX Runtime's gradient builder leaves it; the bias in front of the batch norm has a zero gradient.
ARTIFACT = """
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 4] x, int64[N] labels, float[6, 4] w, float[6] b, float[6] gamma, float[6] beta,
        float[6] mean, float[6] var, float[6, 4] w_sum, float[6] b_sum,
        float[6] gamma_sum, bool[1] lazy_reset_grad)
    => (float loss, bool[1] w_out, bool[1] b_out, bool[1] gamma_out)
<float one = {1}, int64[1] zero = {0}>
{
    z = Gemm <transB: int = 1> (x, w, b)
    y, new_mean, new_var, saved_mean, saved_inv_std =
        com.microsoft.BatchNormInternal <epsilon: float = 0.001, momentum: float = 0.8, training_mode: int = 1>
            (z, gamma, beta, mean, var)
    loss, log_prob = SoftmaxCrossEntropyLoss <reduction: string = "mean"> (y, labels)
    y_grad = com.microsoft.SoftmaxCrossEntropyLossGrad <reduction: string = "mean"> (one, log_prob, labels)
    z_grad, gamma_grad, beta_grad =
        com.microsoft.BatchNormalizationGrad <epsilon: float = 0.001> (y_grad, z, gamma, saved_mean, saved_inv_std)
    w_grad = Gemm <transA: int = 1> (z_grad, x)
    b_grad = ReduceSum <keepdims: int = 0> (z_grad, zero)
    w_out = com.microsoft.InPlaceAccumulatorV2 (w_sum, w_grad, lazy_reset_grad)
    b_out = com.microsoft.InPlaceAccumulatorV2 (b_sum, b_grad, lazy_reset_grad)
    gamma_out = com.microsoft.InPlaceAccumulatorV2 (gamma_sum, gamma_grad, lazy_reset_grad)
}
"""


@pytest.fixture
def artifact():
    return onnx.parser.parse_model(ARTIFACT)


def _by_name(differences):
    return {d.name: d for d in differences}


def _save(tmp_path, **models):
    paths = [tmp_path / f"{name}.onnx" for name in models]
    for path, model in zip(paths, models.values(), strict=True):
        onnx.save(model, path)
    return paths


def _attribute(model, op_type, name):
    node = next(n for n in model.graph.node if n.op_type == op_type)
    return next(a for a in node.attribute if a.name == name)


def test_agreement(run, forward, tmp_path):
    out = tmp_path / "out.onnx"
    run("rewrite", forward, "-o", out)
    result = run("check", forward, out)
    assert (result.exit_code, result.stderr) == (0, "")
    for name in ("y", "new_mean", "new_var"):
        assert any(line.split()[:2] == [name, "output"] for line in result.stdout.splitlines())
    assert result.stdout.splitlines()[-1].startswith("within tolerance: 3 results")


def test_json(run, forward, tmp_path):
    out = tmp_path / "out.onnx"
    run("rewrite", forward, "-o", out)
    document = json.loads(run("check", forward, out, "--json", "--seed", 3, "--batch", 5).stdout)
    assert document["within_tolerance"] is True
    assert (document["original"], document["rewritten"]) == (str(forward), str(out))
    assert (document["seed"], document["batch"]) == (3, 5)
    first = document["differences"][0]
    assert first["name"] == "y"
    assert first["shape"] == [5, 3, 5, 5]
    assert first["tolerance"] == 1e-4
    assert first["within_tolerance"] is True
    assert 0 <= first["relative"] < 1e-5


@pytest.mark.parametrize(
    ("op_type", "attribute", "value", "wrong"),
    [
        ("ChannelNormalize", "epsilon", 0.01, {"y"}),
        ("RunningStats", "momentum", 0.7, {"new_mean"}),
    ],
)
def test_a_wrong_model(run, forward, tmp_path, op_type, attribute, value, wrong):
    model = onnx_cbp.rewrite(forward, one_pass=False)
    _attribute(model, op_type, attribute).f = value
    (out,) = _save(tmp_path, out=model)
    result = run("check", forward, out, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["within_tolerance"] is False
    assert {d["name"] for d in document["differences"] if not d["within_tolerance"]} == wrong
    text = run("check", forward, out)
    assert text.exit_code == 1
    assert text.stdout.splitlines()[-1].startswith("not within tolerance: ")


def test_the_tolerance_can_be_chosen(run, forward, tmp_path):
    model = onnx_cbp.rewrite(forward, one_pass=False)
    _attribute(model, "ChannelNormalize", "epsilon").f = 0.003
    (out,) = _save(tmp_path, out=model)
    assert run("check", forward, out).exit_code == 1
    assert run("check", forward, out, "--rtol", 0.9).exit_code == 0
    assert run("check", forward, forward, "--rtol", 0).exit_code == 0


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_an_epsilon_a_little_off(factor):
    """With variances of 1 an epsilon of 0.001 hardly counts; it is not hidden where variances are as small."""
    original = parse(FORWARD)
    model = onnx_cbp.rewrite(original)
    _attribute(model, "BatchNormTrainUpdate", "epsilon").f *= factor
    differences = _by_name(compare(original, model))
    assert differences["y"].relative > 1e-3
    assert differences["y"].inputs == "variances near epsilon"
    assert not differences["y"].within()


def test_an_epsilon_behind_constant_weights():
    original = parse("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 2] x, float[2] s, float[2] b, float[2] m, float[2] v) => (float[N, 2] y)
        <float[2, 2] w = {1, 2, 3, -4}>
        { z = Gemm (x, w) y, m1, v1 = BatchNormalization <training_mode: int = 1> (z, s, b, m, v) }
    """)
    model = onnx_cbp.rewrite(original)
    assert compare(original, model)[0].within()
    _attribute(model, "BatchNormTrainUpdate", "epsilon").f *= 1.02
    assert not compare(original, model)[0].within()


@pytest.mark.parametrize("which", [0, 1])
def test_every_batch_norm_meets_its_own_epsilon(which):
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 4, 5] x, float[4] s, float[4] b, float[4] m, float[4] v, float[4, 4, 1] w)
            => (float[N, 4, 5] y)
        {
            a, m1, v1 = BatchNormalization <training_mode: int = 1, epsilon: float = 0.01> (x, s, b, m, v)
            c = Conv (a, w)
            y, m2, v2 = BatchNormalization <training_mode: int = 1, epsilon: float = 0.0000001> (c, s, b, m, v)
        }
    """
    original = parse(text)
    model = onnx_cbp.rewrite(original)
    assert compare(original, model)[0].within()
    node = [n for n in model.graph.node if n.op_type == "BatchNormTrainUpdate"][which]
    next(
        a for a in node.attribute if a.name == "epsilon"
    ).f *= 1.01  # too little for variances of 1, or for those near the other's
    assert not compare(original, model)[0].within()


def test_the_original_is_held_to_what_it_means(tmp_path):
    """ONNX Runtime's optimiser makes a fresh batch norm wrong; the yardstick must not be."""
    model = fresh_batch_norm(momentum=0.0)
    (difference,) = compare(model, onnx_cbp.rewrite(model))
    assert difference.within()


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_original_may_share_its_initializers(tmp_path, on_disk):
    """ONNX Runtime destroys a scale that is also the running variance, whatever the optimisation level."""
    model = parse("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 3, 4] x) => (float[N, 3, 4] y)
        <float[3] one = {1, 1, 1}, float[3] zero = {0, 0, 0}>
        { y, m, v = BatchNormalization <training_mode: int = 1, momentum: float = 0.0> (x, one, zero, zero, one) }
    """)
    original = _save(tmp_path, original=model)[0] if on_disk else model
    before = model.SerializeToString()
    (difference,) = compare(original, onnx_cbp.rewrite(model))
    assert difference.within()
    assert model.SerializeToString() == before


def test_what_rounding_alone_decides_is_no_difference(run, tmp_path):
    """The sum of a batch norm's output is zero, so its sign is rounding error: the original's own changes as well."""
    model = parse("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 5, 7] x) => (float[N, 5, 7] y, float[5] sign)
        <float[5] scale = {1, 2, 3, 4, 5}, float[5] B = {0, 0, 0, 0, 0},
         float[5] mean = {0, 0, 0, 0, 0}, float[5] var = {2, 2, 2, 2, 2}>
        {
            y, m, v = BatchNormalization <training_mode: int = 1> (x, scale, B, mean, var)
            turned = Transpose <perm = [1, 0, 2]> (y)
            flat = Flatten <axis = 1> (turned)
            last = Constant <value = int64[1] {1}> ()
            sum = ReduceSum <keepdims = 0> (flat, last)
            sign = Sign (sum)
        }
    """)
    original, out = _save(tmp_path, a=model, b=onnx_cbp.rewrite(model))
    seed = next(s for s in range(20) if _by_name(compare(original, out, seed=s))["sign"].relative > 1)
    result = run("check", original, out, "--seed", seed)
    assert result.exit_code == 0
    assert "as far as rounding lets one see" in result.stdout
    assert run("check", original, out, "--seed", seed, "--rtol", 1e-4).exit_code == 1


class TestForms:
    """Results that one model has in another form, or not at all."""

    def _problems(self, rewritten, original=None):
        original = parse(FORWARD) if original is None else original
        return {d.name: d.problem for d in compare(original, rewritten) if d.problem}

    def test_missing_output(self, run, tmp_path, forward):
        model = onnx_cbp.rewrite(parse(FORWARD))
        del model.graph.output[1]
        assert self._problems(model) == {"new_mean": "missing in the rewritten model"}
        (out,) = _save(tmp_path, out=model)
        result = run("check", forward, out)
        assert result.exit_code == 1
        assert "'new_mean': missing in the rewritten model" in result.stdout.splitlines()[-1]
        assert json.loads(run("check", forward, out, "--json").stdout)["within_tolerance"] is False

    def test_output_too_many(self):
        model = onnx_cbp.rewrite(parse(FORWARD))
        model.graph.node.add(op_type="Neg", input=["y"], output=["more"])
        model.graph.output.add().CopyFrom(model.graph.output[0])
        model.graph.output[-1].name = "more"
        assert self._problems(model) == {"more": "missing in the original model"}

    def test_other_shape_and_type(self):
        text = '<ir_version: 8, opset_import: ["" : 17]> agraph (float[N, 3] x) => ({} y) {{ {} }}'
        original = onnx.parser.parse_model(text.format("float[N, 3]", "y = Identity (x)"))
        model = onnx.parser.parse_model(text.format("double[3, N]", "t = Transpose (x) y = Cast <to = 11> (t)"))
        problem = "float32[8, 3] in the original, float64[3, 8] in the rewritten model"
        assert self._problems(model, original) == {"y": problem}

    def test_other_inputs(self):
        model = onnx_cbp.rewrite(parse(FORWARD))
        model.graph.input.add().CopyFrom(model.graph.input[0])
        model.graph.input[-1].name = "more"
        assert self._problems(model) == {"more": "no input of the original model"}

    def test_not_a_number(self):
        text = '<ir_version: 8, opset_import: ["" : 17]> agraph (float[N] x) => (float[N] y) {{ y = {} }}'
        identity = onnx.parser.parse_model(text.format("Identity (x)"))
        root = onnx.parser.parse_model(text.format("Sqrt (x)"))
        (difference,) = compare(identity, root)
        assert difference.problem.startswith("0 of 8 are NaN in the original")
        assert not difference.within(1e9)
        json.dumps(difference.as_dict(), allow_nan=False)
        (difference,) = compare(root, root)
        assert difference.within()


class TestInputs:
    """Inputs that every graph can digest."""

    def test_the_same_for_the_same_seed(self):
        model = parse(FORWARD)
        other = onnx_cbp.rewrite(model)
        assert compare(model, other, seed=4) == compare(model, other, seed=4)
        assert compare(model, other, seed=4) != compare(model, other, seed=5)

    @pytest.mark.parametrize("classes", [2, 3, 1000])
    def test_labels_stay_below_the_number_of_classes(self, classes):
        model = parse(f"""
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (float[N, {classes}] scores, int64[M] labels) => (float loss)
            <int64[1] any = {{-1}}>
            {{
                flat = Reshape (labels, any)
                loss = SoftmaxCrossEntropyLoss (scores, flat)
            }}
        """)
        for seed in range(5):
            (difference,) = compare(model, model, seed=seed, batch=50)
            assert difference.kind == "loss"
            assert difference.within(0)

    def test_indices_stay_below_the_size_of_a_table(self):
        model = parse("""
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (int64[N, 7] tokens, float[5, 3] table) => (float[N, 7, 3] y) { y = Gather (table, tokens) }
        """)
        (difference,) = compare(model, model)
        assert difference.within(0)
        assert difference.shape == (8, 7, 3)

    def test_dropout_drops_alike(self):
        model = parse("""
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (float[N, 50] x) => (float[N, 50] y)
            <float ratio = {0.5}, bool training = {1}>
            { y = Dropout (x, ratio, training) }
        """)
        (difference,) = compare(model, model)
        assert difference.within(0)

    @pytest.mark.parametrize("draw", ["RandomNormalLike (n)", "RandomUniformLike (n)", "Bernoulli (p)"])
    def test_random_numbers_are_drawn_alike(self, draw):
        """By itself, ONNX Runtime seeds such a node by its place in the graph."""
        text = f"""
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (float[N, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v)
                => (float[N, 3, 4] y, float[N, 3, 4] twice)
            {{
                n, new_m, new_v = BatchNormalization <training_mode: int = 1> (x, s, b, m, v)
                p = Sigmoid (n)
                drawn = {draw}
                other = {draw}
                y = Add (n, drawn)
                twice = Sub (drawn, other)
            }}
        """
        model = parse(text)
        before = model.SerializeToString()
        differences = _by_name(compare(model, onnx_cbp.rewrite(model, one_pass=False)))
        assert all(d.within() for d in differences.values())
        assert differences["twice"].largest > 0.1  # each node draws numbers of its own
        assert model.SerializeToString() == before

    @pytest.mark.parametrize("way", [1, -1])
    def test_random_numbers_that_only_one_model_draws(self, run, tmp_path, way):
        text = """
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (float[N, 3] x) => (float[N, 3] y) { drawn = RandomNormalLike (x) y = Add (x, drawn) }
        """
        other = text.replace("drawn", "rolled")
        names = ["drawn", "rolled"][::way]
        first, second = _save(tmp_path, **dict(zip("ab", [parse(text), parse(other)][::way], strict=True)))
        result = run("check", first, second)
        assert (result.exit_code, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert f"'{first}' draws random numbers '{names[0]}' (RandomNormalLike) and '{second}' none" in line
        assert "the same attribute 'seed' in both" in line
        # And that does help.
        seeds = [parse(t.replace("Like (", "Like <seed: float = 3.0> (")) for t in (text, other)]
        assert run("check", *_save(tmp_path, c=seeds[0], d=seeds[1])).exit_code == 0

    @pytest.mark.parametrize(
        ("declared", "words"),
        [("seq(float[N]) x", "no tensor"), ("string[N] x", "type string"), ("float x", None)],
    )
    def test_what_no_inputs_can_be_made_for(self, run, tmp_path, declared, words):
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> agraph ({declared}) => (y) {{ y = Identity (x) }}'
        )
        (path,) = _save(tmp_path, odd=model)
        if words is None:
            model.graph.input[0].type.tensor_type.ClearField("shape")
            onnx.save(model, path)
            words = "has no shape"
        result = run("check", path, path)
        assert result.exit_code == 2
        assert "input 'x'" in result.stderr
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_a_model_that_cannot_run(self, run, tmp_path):
        model = parse("""
            <ir_version: 8, opset_import: ["" : 17]>
            agraph (float[N, 3] x, float[M, 4] z) => (float[A, B] y) { y = MatMul (x, z) }
        """)
        (path,) = _save(tmp_path, odd=model)
        result = run("check", path, path)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"onnx-cbp: '{path}' cannot be run: ")
        assert len(result.stderr.splitlines()) == 1


def test_a_portable_model(run, forward, tmp_path):
    out = tmp_path / "out.onnx"
    run("rewrite", forward, "-o", out, "--portable")
    assert run("check", forward, out).exit_code == 0


def test_double(run, tmp_path):
    original = parse(FORWARD.replace("float[", "double["))
    differences = compare(original, onnx_cbp.rewrite(original))
    assert all(d.dtype == "float64" and d.relative < 1e-12 for d in differences)


def test_stock_onnxruntime_has_no_training_artifacts(run, tmp_path, artifact):
    from onnxruntime.capi import _pybind_state

    if hasattr(_pybind_state, "Module"):
        pytest.skip("this is the training build, which runs them")
    (path,) = _save(tmp_path, training_model=artifact)
    result = run("check", path, path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "com.microsoft." in line
    assert "pip install onnxruntime-training-cpu" in line


@pytest.mark.training
class TestTrainingArtifacts:
    def test_agreement(self, artifact):
        differences = _by_name(compare(artifact, onnx_cbp.rewrite(artifact)))
        assert all(d.within() for d in differences.values())
        assert {name: d.kind for name, d in differences.items() if d.dtype != "bool"} == {
            "loss": "loss",
            "mean": "running statistic",
            "var": "running statistic",
            "w_sum": "gradient",
            "b_sum": "gradient",
            "gamma_sum": "gradient",
        }
        # Not a check of zeros against zeros.
        assert differences["w_sum"].largest > 1e-3
        assert differences["b_sum"].largest < 1e-6

    def test_flags_that_agree_need_no_row(self, run, tmp_path, artifact):
        original, out = _save(tmp_path, a=artifact, b=onnx_cbp.rewrite(artifact))
        result = run("check", original, out)
        assert result.exit_code == 0
        assert "w_out" not in result.stdout
        assert "6 results, 3 flags equal" in result.stdout

    def test_running_statistics_that_freeze(self, artifact):
        model = onnx_cbp.rewrite(artifact)
        for node in [n for n in model.graph.node if n.op_type == "InPlaceAccumulatorV2"]:
            if node.input[0] in ("mean", "var"):
                model.graph.node.remove(node)
        wrong = {d.name for d in compare(artifact, model) if not d.within()}
        assert wrong == {"mean", "var"}

    def test_a_wrong_gradient(self, artifact):
        model = onnx_cbp.rewrite(artifact, one_pass=False)
        node = next(n for n in model.graph.node if n.op_type == "ChannelBackprop")
        node.input[2] = "beta"  # instead of the scale
        wrong = {d.name for d in compare(artifact, model) if not d.within()}
        assert "w_sum" in wrong
        assert "loss" not in wrong

    def test_a_lost_accumulator(self, artifact):
        model = onnx_cbp.rewrite(artifact)
        node = next(n for n in model.graph.node if n.op_type == "InPlaceAccumulatorV2" and n.output[0] == "w_out")
        node.input[1] = node.input[0]
        wrong = {d.name for d in compare(artifact, model) if not d.within()}
        assert "w_sum" in wrong

    @pytest.mark.parametrize(
        ("flag", "inputs"), [(True, {"gradients accumulate"}), (False, {"usual", "variances near epsilon"})]
    )
    def test_an_accumulator_that_is_deaf_to_its_flag(self, artifact, flag, inputs):
        model = onnx_cbp.rewrite(artifact)
        node = next(n for n in model.graph.node if n.output[0] == "gamma_out")
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([flag]), "always"))
        node.input[2] = "always"
        (wrong,) = (d for d in compare(artifact, model) if not d.within())
        assert wrong.name == "gamma_sum"
        assert wrong.inputs in inputs

    def test_what_each_fusion_does(self, run, tmp_path, artifact):
        original, out = _save(tmp_path, a=artifact, b=onnx_cbp.rewrite(artifact))
        rows = json.loads(run("check", original, out, "--json").stdout)["fusions"]
        assert [row["fusion"] for row in rows] == [None, "one_pass"]
        assert all(set(row["to_original"]) >= {"loss", "gradient", "running statistic"} for row in rows)
        assert 0 < rows[0]["to_original"]["gradient"] < 1e-4

    def test_batch_norm_alone(self):
        model = onnx.parser.parse_model(TRAINING)
        differences = _by_name(compare(model, onnx_cbp.rewrite(model)))
        assert all(d.within() for d in differences.values())
        assert {"running_mean", "running_var", "gamma_grad"} <= set(differences)
        assert not np.isnan(differences["y"].largest)


@pytest.mark.training
def test_artifacts_whose_constants_are_shared(tmp_path):
    # ONNX Runtime's own artifact of a batch norm without weights: scale and running variance are one constant, which
    # the original writes over while it still reads it.
    text = """
<ir_version: 8, opset_import: ["" : 15, "com.microsoft" : 1]>
agraph (float[N, 3, L] x) => (float[N, 3, L] y)
<float[3] ones = {1, 1, 1}, float[3] zeros = {0, 0, 0}>
{
    y, rm, rv, sm, si = com.microsoft.BatchNormInternal (x, ones, zeros, zeros, ones)
}"""
    model = parse(text)
    (original,) = _save(tmp_path, original=model)
    assert all(d.within() for d in compare(original, onnx_cbp.rewrite(model)))


@pytest.mark.parametrize("outputs", [["y"], ["y", "rm"], ["y", "rm", ""], ["y", "", "rv"]])
def test_updated_statistics_that_a_batch_norm_leaves_out(outputs, run, tmp_path):
    """ONNX lets it; ONNX Runtime ends the process where the last one is left out, and the original is run as well."""
    fills = {"s": 1.5, "b": 0.1, "m": 0.2, "v": 2.0}
    vectors = [numpy_helper.from_array(np.full(3, fill, np.float32), name) for name, fill in fills.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    node = helper.make_node("BatchNormalization", ["x", *fills], outputs, training_mode=1, name="bn")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], vectors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    for made in (onnx_cbp.rewrite(model), model):
        onnx.save(made, tmp_path / "made.onnx")
        result = run("check", tmp_path / "model.onnx", tmp_path / "made.onnx")
        assert result.exit_code == 0, result.stderr
        assert "within tolerance: 1 result" in result.stdout
