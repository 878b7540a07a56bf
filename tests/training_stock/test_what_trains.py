"""Which parameters train, what is frozen, and what is refused because it would train as another network."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_cbp import OnnxCbpError
from onnx_cbp.training.optimizers import SGD
from support.stepping import NORMALISED, PERCEPTRON, Training, batches, network, normalised_weights, slopes, weights

CALLED_TWICE = """
<ir_version: 8, opset_import: ["" : OPSET]>
twice (float[N, 5] x) => (float[N, 5] logits)
{
    once, mean_once, var_once = BatchNormalization <training_mode: int = 1, momentum: float = 0.7>
        (x, scale, bias, mean, var)
    curved = Tanh (once)
    logits, mean_twice, var_twice = BatchNormalization <training_mode: int = 1, momentum: float = 0.7>
        (curved, scale, bias, mean, var)
}"""
FROZEN = NORMALISED.replace(
    "normal, bn1_mean, bn1_var = BatchNormalization <training_mode: int = 1, ", "normal = BatchNormalization <"
)
BEFORE_14 = """
<ir_version: 7, opset_import: ["" : OPSET]>
old (float[N, 5] x) => (float[N, 3] logits)
{
    hidden = Gemm (x, w1)
    normal, new_mean, new_var, saved_mean, saved_var = BatchNormalization <momentum: float = 0.6>
        (hidden, scale1, bias1, mean1, var1)
    positive = Relu (normal)
    logits = Gemm (positive, w2, b2)
}"""


def _vectors(seed, channels=5):
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(channels).astype(np.float32) for name in ("scale", "bias", "mean")}
    return values | {"var": rng.uniform(0.5, 2, channels).astype(np.float32)}


def _batch_norm(x, scale, bias, mean=None, var=None, epsilon=1e-5):
    mean, var = (x.mean(0), x.var(0)) if mean is None else (mean, var)
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias


def _cross_entropy(logits, labels):
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels].mean()


def _normalised(values, x, labels, frozen=()):
    h = x.astype(np.float64) @ values["w1"]
    first = (values["mean1"], values["var1"]) if 1 in frozen else ()
    h = np.maximum(_batch_norm(h, values["scale1"], values["bias1"], *first, epsilon=1e-3), 0)
    h = h @ values["w2"] + values["b2"]
    second = (values["mean2"], values["var2"]) if 2 in frozen else ()
    return _cross_entropy(_batch_norm(h, values["scale2"], values["bias2"], *second), labels)


def _held(trained, loss, values, names, batch):
    """One step's loss and gradients against differences in float64."""
    got, gradients = trained.gradients(*batch)
    others = {n: np.float64(v) for n, v in values.items() if n not in names}
    assert got == pytest.approx(loss(others | {n: np.float64(values[n]) for n in names}, *batch), rel=1e-5)
    want = slopes(lambda v: loss(others | v, *batch), {n: values[n] for n in names})
    largest = max(np.abs(v).max() for v in want.values())
    assert set(gradients) == set(names)
    for name, value in want.items():
        np.testing.assert_allclose(gradients[name], value, rtol=2e-4, atol=2e-5 * largest)


@pytest.mark.parametrize("opset", [14, 17, 20])
def test_all_weights_train_where_nothing_is_named(opset, tmp_path):
    values = normalised_weights(1)
    trained = Training(network(NORMALISED, values, opset), tmp_path)
    batch = batches(1, 3)[0]
    names = [name for name in values if not name.startswith(("mean", "var"))]
    _held(trained, _normalised, values, names, batch)
    state = {name: parameter.requires_grad for name, parameter in trained.state.parameters}
    assert state == {name: name in names for name in values}
    hidden = batch[0].astype(np.float64) @ values["w1"]
    for name, new in (("mean1", hidden.mean(0)), ("var1", hidden.var(0))):
        want = 0.9 * values[name] + 0.1 * new
        np.testing.assert_allclose(trained.state.parameters[name].data, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen_by", ["the export", "rewrite", "train_batch_norms"])
def test_a_frozen_batch_norm_keeps_its_statistics(frozen_by, tmp_path):
    values, batch = normalised_weights(2), batches(1, 3)[0]
    model, arguments = network(NORMALISED if frozen_by == "rewrite" else FROZEN, values), {}
    if frozen_by == "rewrite":
        arguments["rewrite_options"] = {"freeze": "normal"}
    if frozen_by == "train_batch_norms":  # the other way round
        arguments["train_batch_norms"] = "*"
    frozen = () if frozen_by == "train_batch_norms" else (1,)
    trained = Training(model, tmp_path, optimizer="SGD", **arguments)
    names = [name for name in values if not name.startswith(("mean", "var"))]
    _held(trained, lambda v, *b: _normalised(v, *b, frozen), values, names, batch)
    for step in batches(3, 4):
        trained.step(*step)
    moved = {n for n, v in trained.values().items() if not np.array_equal(v, values[n])}
    moved |= {"b2"}  # before a batch norm: its gradient is rounding, or nothing
    assert moved == set(values) - ({"mean1", "var1"} if frozen else set())


def test_one_module_called_twice_moves_its_statistics_twice(tmp_path):
    values = _vectors(3)
    trained = Training(network(CALLED_TWICE, values), tmp_path)
    (x, labels), *_ = batches(1, 5)

    def loss(v, x, labels):
        return _cross_entropy(
            _batch_norm(np.tanh(_batch_norm(x, v["scale"], v["bias"])), v["scale"], v["bias"]), labels
        )

    _held(trained, loss, values, ["scale", "bias"], (x, labels))
    mean = values["mean"].astype(np.float64)
    for each in (x, np.tanh(_batch_norm(x.astype(np.float64), values["scale"], values["bias"]))):
        mean = 0.7 * mean + 0.3 * each.mean(0)
    np.testing.assert_allclose(trained.state.parameters["mean"].data, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [9, 12, 13])
def test_older_opsets_train(opset, tmp_path):
    values = {n: v for n, v in normalised_weights(4).items() if not n.endswith("2") or n in ("w2", "b2")}
    if opset < 11:
        values |= {"b1": np.zeros(7, np.float32)}  # where a Gemm has no optional bias yet
    text = BEFORE_14.replace("Gemm (x, w1)", "Gemm (x, w1, b1)") if opset < 11 else BEFORE_14
    trained = Training(network(text, values, opset), tmp_path)
    (x, labels), *_ = batches(1, 3)

    def loss(v, x, labels):
        h = x.astype(np.float64) @ v["w1"] + v.get("b1", 0)
        return _cross_entropy(np.maximum(_batch_norm(h, v["scale1"], v["bias1"]), 0) @ v["w2"] + v["b2"], labels)

    _held(trained, loss, values, [n for n in values if not n.startswith(("mean", "var"))], (x, labels))
    before = values["var1"].astype(np.float64)
    hidden = x.astype(np.float64) @ values["w1"]
    # Of opset 13 and older, momentum and the variance are what ONNX Runtime's kernels make of them: biased.
    np.testing.assert_allclose(trained.state.parameters["var1"].data, 0.6 * before + 0.4 * hidden.var(0), rtol=1e-5)


def test_double_trains(tmp_path):
    values = {n: v.astype(np.float64) for n, v in weights(5).items()}
    trained = Training(network(PERCEPTRON.replace("float[", "double["), values), tmp_path)
    (x, labels), *_ = batches(1, 3)

    def loss(v, x, labels):
        return _cross_entropy(np.maximum(x @ v["w1"] + v["b1"], 0) @ v["w2"] + v["b2"], labels)

    _held(trained, loss, values, list(values), (x.astype(np.float64), labels))
    trained.step(x.astype(np.float64), labels)


def test_named_ones_alone_train(tmp_path):
    trained = Training(
        network(PERCEPTRON, weights(1)),
        tmp_path,
        requires_grad=["w2"],
        frozen_params=["b2"],
        optimizer=SGD(momentum=0.5),
    )
    for batch in batches(2, 1):
        trained.step(*batch)
    assert [n for n, p in trained.state.parameters if p.requires_grad] == ["w2"]
    assert {n for n, v in trained.values().items() if not np.array_equal(v, weights(1)[n])} == {"w2"}
    assert set(trained.values()) == {"w2", "b2"}


OWN_LOSS = """
<ir_version: 8, opset_import: ["" : 17]>
own (float[N, 5] x, float[N, 3] wanted) => (float[N, 3] logits, float loss)
{
    hidden = Gemm (x, w1, b1)  positive = Relu (hidden)  logits = Gemm (positive, w2, b2)
    error = Sub (logits, wanted)  square = Mul (error, error)  loss = ReduceMean <keepdims: int = 0> (square)
}"""


def test_the_models_own_loss(tmp_path):
    values = weights(6)
    trained = Training(network(OWN_LOSS, values), tmp_path, loss="loss", additional_output_names=["logits"])
    x = batches(1, 3)[0][0]
    target = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)

    def loss(v, x, target):
        return ((np.maximum(x @ v["w1"] + v["b1"], 0) @ v["w2"] + v["b2"] - target) ** 2).mean()

    _held(trained, loss, values, list(values), (x, target))
    assert trained.module.input_names() == ["x", "wanted"]
    assert trained.module.output_names() == ["loss", "logits"]


def test_labels_that_are_an_input_already(tmp_path):
    text = PERCEPTRON.replace("(float[N, 5] x)", "(float[N, 5] x, int64[N] answers)")
    trained = Training(network(text, weights(0)), tmp_path, loss_input_names=["logits", "answers"])
    plain = Training(network(PERCEPTRON, weights(0)), tmp_path / "plain")
    for batch in batches(2, 1):
        assert trained.step(*batch) == plain.step(*batch)


def test_numbers_that_a_network_computes_with_do_not_train(tmp_path):
    text = PERCEPTRON.replace("positive = Relu (hidden)", "scaled = Mul (hidden, six)  positive = Relu (scaled)")
    values = weights(0) | {"six": np.array(6, np.float32)}
    trained = Training(network(text, values), tmp_path)
    assert {n for n, p in trained.state.parameters if p.requires_grad} == set(weights(0))


def test_merged_parameters_are_refused(tmp_path):
    values = _vectors(0)
    text = CALLED_TWICE.replace("(curved, scale, bias, mean, var)", "(curved, scale, bias, mean2, var2)")
    values |= {"mean2": np.zeros(5, np.float32), "var2": np.ones(5, np.float32)}
    with pytest.raises(
        OnnxCbpError, match=r"'scale' is read by the batch norms .*the exporter merged equal parameters"
    ):
        Training(network(text, values), tmp_path)
    assert not list(tmp_path.iterdir())


def test_copies_that_an_exporter_merged_are_parameters_of_their_own(tmp_path):
    values = normalised_weights(7)
    model = network(NORMALISED, values)
    for old, new in (("bias2", "bn2.bias"), ("mean2", "bn2.mean")):
        _rename(model, old, new)
    merged = next(t for t in model.graph.initializer if t.name == "bn2.mean")
    model.graph.initializer.remove(merged)
    model.graph.node.insert(0, helper.make_node("Identity", ["bn2.bias"], ["bn2.mean"], "copy"))
    trained = Training(model, tmp_path)
    trained.step(*batches(1, 1)[0])
    after = trained.values()
    assert {"bn2.bias", "bn2.mean"} < set(after)
    assert not np.array_equal(after["bn2.bias"], after["bn2.mean"])


def _rename(model, old, new):
    for tensor in model.graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def test_folded_batch_norms_are_named(caplog, tmp_path):
    model = network(PERCEPTRON, weights(0))
    model.graph.node[0].metadata_props.add(key="pkg.onnxscript.rewriter.rule_name", value="FuseBatchNormIntoGemm")
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        Training(model, tmp_path)
    assert "1 batch norm that the exporter folded into the layer in front" in caplog.text
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        caplog.clear()
        model = network(
            FROZEN.replace(
                "logits, bn2_mean, bn2_var = BatchNormalization <training_mode: int = 1, ",
                "logits = BatchNormalization <",
            ),
            normalised_weights(0),
        )
        Training(model, tmp_path)
    assert "2 batch norms in inference form" in caplog.text


def test_initializers_that_are_inputs_too_are_parameters(tmp_path):
    """keep_initializers_as_inputs, and every model of IR version 3: they are defaults."""
    model, values = network(NORMALISED, normalised_weights(0)), normalised_weights(0)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    alike, plain = Training(model, tmp_path / "a"), Training(network(NORMALISED, values), tmp_path / "b")
    assert alike.module.input_names() == plain.module.input_names() == ["x", "labels"]
    for x, labels in batches(3, 1):
        assert alike.step(x, labels) == plain.step(x, labels)
    for name, value in plain.values().items():
        np.testing.assert_array_equal(alike.values()[name], value)
        assert not np.array_equal(value, values[name])


LAYERS = """
<ir_version: 8, opset_import: ["" : OPSET]>
layers (float[N, 3, 4] x) => (float[N, 3, 1] logits)
{
    scores = MatMul (x, square)
    allowed = Add (scores, mask)
    product = MatMul (allowed, kernel)
    shifted = Add (product, bias)
    logits = Add (shifted, constant_7)
}"""


@pytest.mark.parametrize("bias", ["b", "model/dense/BiasAdd/ReadVariableOp:0"])
def test_a_layer_of_one_unit_has_a_bias_and_a_mask_is_none(bias, caplog, tmp_path):
    values = {"square": np.eye(4), "mask": np.triu(np.full((3, 4), -1e9), 1), "kernel": np.ones((4, 1))}
    values |= {"bias": np.zeros(1), "constant_7": np.ones(1)}
    model = network(LAYERS, {name: value.astype(np.float32) for name, value in values.items()})
    _rename(model, "bias", bias)
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        trained = Training(model, tmp_path, loss="MSELoss")
    assert {name for name, p in trained.state.parameters if p.requires_grad} == {"square", "kernel", bias}
    (said,) = (record.getMessage() for record in caplog.records)
    assert "nothing says that they are weights: 'mask';" in said


GROUPS = """
<ir_version: 8, opset_import: ["" : OPSET]>
groups (float[N, 4, 3, 3] x) => (float[N, 2] logits)
{
    one = Constant <value = float[2] {1, 1}> ()
    none = Constant <value = float[2] {0, 0}> ()
    apart = Constant <value = int64[3] {0, 2, -1}> ()
    spatial = Constant <value = int64[2] {1, 2}> ()
    shape = Shape (x)
    grouped = Reshape (x, apart)
    alike = InstanceNormalization (grouped, one, none)
    back = Reshape (alike, shape)
    column = Unsqueeze (scale, spatial)
    scaled = Mul (back, column)
    shift = Unsqueeze (bias, spatial)
    moved = Add (scaled, shift)
    pooled = GlobalAveragePool (moved)
    flat = Flatten (pooled)
    FIXED
    part = Gemm (flat, kernel)
    risen = Exp (temperature)
    logits = Mul (part, risen)
}"""


@pytest.mark.parametrize("chosen", [None, ["temperature", "kernel"]])
def test_what_stays_as_it_is_is_named(chosen, caplog, tmp_path):
    """The scale and bias of a group norm are brought into its rank; a number and a Constant node are no weights."""
    values = {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32), "temperature": np.array(1, np.float32)}
    kernel = "kernel = Constant <value = float[4, 2] {1, 2, 3, 4, 5, 6, 7, 8}> ()"
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        trained = Training(network(GROUPS.replace("FIXED", kernel), values), tmp_path, requires_grad=chosen)
    said = [record.getMessage() for record in caplog.records]
    assert {name for name, p in trained.state.parameters if p.requires_grad} == set(chosen or ("scale", "bias"))
    if chosen is None:
        first, second = said
        assert "nothing says that they are weights: 'temperature'; list what trains in requires_grad" in first
        assert "Constant nodes" in second
        assert "'kernel'" in second
    else:
        assert not said


GROUPS_FOLDED = """
<ir_version: 8, opset_import: ["" : OPSET]>
groups (float[N, 4, 3, 3] x) => (float[N, 4] logits)
{
    apart = Constant <value = int64[3] {0, 2, -1}> ()
    shape = Shape (x)
    grouped = Reshape (x, apart)
    alike = InstanceNormalization (grouped, one, none)
    back = Reshape (alike, shape)
    scaled = Mul (back, column)
    moved = Add (scaled, shift)
    again = InstanceNormalization (moved, ones, nones)
    offset = Add (again, table)
    pooled = GlobalAveragePool (offset)
    logits = Flatten (pooled)
}"""


def _folded_groups(names):
    """A group norm, an instance norm without parameters, and a table of positions, as exporters fold them."""
    rng = np.random.default_rng(3)
    values = {"one": np.ones(2), "none": np.zeros(2), "column": np.ones((4, 1, 1)), "shift": np.zeros((4, 1, 1))}
    values |= {"ones": np.ones(4), "nones": np.zeros(4), "table": rng.standard_normal((1, 1, 3, 3))}
    model = network(GROUPS_FOLDED, {name: value.astype(np.float32) for name, value in values.items()})
    for old, new in names.items():
        _rename(model, old, new)
    return model


def _mark(model, **kinds):
    """Mark initializers as PyTorch's default exporter does."""
    for tensor in model.graph.initializer:
        if tensor.name in kinds:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            key = "pkg.torch.export.graph_signature.InputSpec.kind"
            value.metadata_props.add(key=key, value=kinds[tensor.name])
            model.graph.value_info.append(value)


@pytest.mark.parametrize("names", [{"one": "val_8", "none": "val_11"}, {"one": "gn.weight", "none": "gn.bias"}])
def test_a_folded_group_norm_trains_by_channel(names, caplog, tmp_path):
    """The ones and zeros by group are constants, also where they were merged with those of another norm."""
    names = names | {"column": "val_21", "shift": "val_23", "ones": "val_30", "nones": "val_31"}
    model = _folded_groups(names)
    _mark(model, table="PARAMETER")
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        trained = Training(model, tmp_path, loss="MSELoss")
    assert {name for name, p in trained.state.parameters if p.requires_grad} == {"val_21", "val_23", "table"}
    (said,) = (record.getMessage() for record in caplog.records)
    assert "trained, though the exporter does not mark them as parameters: 'val_21', 'val_23'; list" in said


def test_a_folded_parameter_that_does_not_train_is_named(caplog, tmp_path):
    """The older exporter folds `pos.unsqueeze(0)`; without its marks, a norm of ones has parameters that train."""
    names = {"column": "onnx::Mul_21", "shift": "onnx::Add_23", "table": "onnx::Add_15"}
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        trained = Training(_folded_groups(names), tmp_path, loss="MSELoss")
    wanted = {"onnx::Mul_21", "onnx::Add_23", "ones", "nones"}
    assert {name for name, p in trained.state.parameters if p.requires_grad} == wanted
    (said,) = (record.getMessage() for record in caplog.records)
    assert "nothing says that they are weights: 'onnx::Add_15'; list what trains in requires_grad" in said
    caplog.clear()
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        Training(_folded_groups(names), tmp_path, loss="MSELoss", frozen_params=["onnx::Add_15"])
    assert not caplog.records


TIED = """
<ir_version: 8, opset_import: ["" : OPSET]>
tied (int64[N, 4] x) => (float[N, 4, 6] logits)
{
    embedded = Gather (table, x)  curved = Tanh (embedded)  logits = MatMul (curved, turned)
}"""


@pytest.mark.parametrize("name", ["val_2", "onnx::MatMul_13"])
def test_a_tied_weight_that_an_exporter_transposed_is_refused(name, tmp_path):
    table = np.random.default_rng(4).standard_normal((6, 3)).astype(np.float32)
    model = network(TIED, {"table": table, "turned": np.ascontiguousarray(table.T)})
    _rename(model, "turned", name)
    for chosen in (None, ["table"], ["table", name]):
        with pytest.raises(OnnxCbpError, match=rf"'{name}' is 'table', transposed .*optimize=False"):
            Training(model, tmp_path, loss="MSELoss", requires_grad=chosen)
    for arguments in ({"tied_params": []}, {"frozen_params": [name]}):
        trained = Training(model, tmp_path, loss="MSELoss", **arguments)
        assert trained.state.parameters["table"].requires_grad


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (None, {"requires_grad": ["mean1"]}, "'mean1' is a running statistic"),
        (None, {"requires_grad": []}, "nothing of the model trains"),
        ("half", {}, "what trains is float or double, and these weights are FLOAT16"),
        ("half", {"requires_grad": ["w1"]}, "what trains is float or double"),
        ("an op", {}, "NonZero|no gradient"),
    ],
)
def test_what_cannot_train_is_one_line(change, arguments, said, tmp_path):
    values, text = normalised_weights(0), NORMALISED
    if change == "an op":
        text = text.replace(
            "positive = Relu (normal)", "unique = Unique <axis: int = 0> (normal)  positive = Relu (unique)"
        )
    if change == "half":
        values = {n: v.astype(np.float16) for n, v in values.items()}
        text = text.replace("float[", "float16[")
    with pytest.raises(OnnxCbpError, match=said) as caught:
        Training(network(text, values), tmp_path, **arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_forward_graph_is_not_changed(tmp_path):
    model = network(NORMALISED, normalised_weights(0))
    before = model.SerializeToString(deterministic=True)
    Training(model, tmp_path)
    assert model.SerializeToString(deterministic=True) == before
    trained = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    onnx.checker.check_model(onnx.load(tmp_path / "eval_model.onnx"), full_check=True)
    assert set(trained) == set(normalised_weights(0))


RECURRENT = """
<ir_version: 8, opset_import: ["" : OPSET]>
recurrent (float[N, 4, 5] x) => (float[N, 3] logits)
{
    start = Constant <value_ints: ints = [0]> ()  middle = Constant <value_ints: ints = [3]> ()
    end = Constant <value_ints: ints = [9]> ()
    steps = Transpose <perm: ints = [1, 0, 2]> (x)
    first = Slice (w, start, middle, start)  rest = Slice (w, middle, end, start)
    turned = Concat <axis: int = 0> (rest, first)
    ordered = Unsqueeze (turned, start)
    y, last = GRU <hidden_size: int = 3> (steps, ordered, r)
    logits = Squeeze (last, start)
}"""


def test_gates_that_an_exporter_put_into_order_train(tmp_path):
    """PyTorch's exporters cut and join the weights of recurrent networks: they are parameters all the same."""
    rng = np.random.default_rng(1)
    values = {"w": rng.normal(size=(9, 5)), "r": rng.normal(size=(1, 9, 3))}
    model = network(RECURRENT, {name: value.astype(np.float32) for name, value in values.items()})
    trained = Training(model, tmp_path, requires_grad=None)
    assert {name for name, p in trained.state.parameters if p.requires_grad} == {"w", "r"}
    x, labels = rng.normal(size=(6, 4, 5)).astype(np.float32), np.arange(6) % 3
    before = float(trained.module(x, labels))
    for _ in range(40):
        trained.optimizer.step()
        trained.module.lazy_reset_grad()
        after = float(trained.module(x, labels))
    assert after < before


@pytest.mark.parametrize(("opset", "vectors"), [(18, 2), (21, 4)])
def test_a_group_norm_trains_by_group_or_by_channel(opset, vectors, tmp_path):
    """Its scale is that of a group before opset 21; no version of onnx infers its shape."""
    text = """
    <ir_version: 8, opset_import: ["" : OPSET]>
    grouped (float[N, 4, 3] x) => (float[N, 3] logits)
    { h = GroupNormalization <num_groups: int = 2> (x, s, b)  f = Flatten (h)  logits = MatMul (f, w) }"""
    rng = np.random.default_rng(1)
    shapes = {"s": (vectors,), "b": (vectors,), "w": (12, 3)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    try:
        trained = Training(network(text, values, opset), tmp_path, requires_grad=None)
        x, labels = rng.normal(size=(5, 4, 3)).astype(np.float32), np.arange(5) % 3
        trained.module(x, labels)
    except (OnnxCbpError, onnx.checker.ValidationError) as error:
        # An onnxruntime older than the opset, or an onnx that calls the older form withdrawn.
        assert "opset" in str(error).lower() or "deprecated" in str(error)  # noqa: PT017
        pytest.skip(str(error).splitlines()[0])
    grouped = x.astype(np.float64).reshape(5, 2, 6)
    normal = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
    scale, bias = (np.repeat(values[n], 4 // vectors).reshape(4, 1) for n in ("s", "b"))

    def loss(w):
        return _cross_entropy((normal.reshape(5, 4, 3) * scale + bias).reshape(5, 12) @ w, labels)

    assert float(trained.module(x, labels)) == pytest.approx(loss(values["w"]), rel=1e-5)
    assert {name for name, p in trained.state.parameters if p.requires_grad} == {"s", "b", "w"}
    assert all(np.abs(trained.state.parameters[name].grad).max() > 0 for name in values)


HALF = """
<ir_version: 8, opset_import: ["" : OPSET]>
half (float[N, 5] x) => (float[N, 3] logits)
{
    narrow = Cast <to: int = 10> (x)
    hidden = MatMul (narrow, weight)
    wide = Cast <to: int = 1> (hidden)
    logits = MatMul (wide, w2)
}"""


def test_weights_of_16_bits_are_named(caplog, tmp_path):
    model = network(HALF, {"weight": np.eye(5, dtype=np.float16), "w2": np.ones((5, 3), np.float32)})
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        trained = Training(model, tmp_path / "some")
    assert "not trained, since they are FLOAT16: 'weight'; export the model with float weights" in caplog.text
    assert set(trained.gradients(*batches(1, 5)[0])[1]) == {"w2"}
    caplog.clear()
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        Training(model, tmp_path / "said", frozen_params=["weight"])
    assert "FLOAT16" not in caplog.text
    with pytest.raises(OnnxCbpError, match="what trains is float or double, and these weights are FLOAT16: 'weight'"):
        Training(model, tmp_path / "none", frozen_params=["w2"])


NORMED = """
<ir_version: 8, opset_import: ["" : OPSET]>
normed (float[N, 5] x) => (float[N, 3] logits)
{
    norm = ReduceL2 <axes: ints = [0], keepdims: int = 1> (direction)
    unit = Div (direction, norm)
    weight = Mul (unit, length)
    hidden = MatMul (x, weight)
    logits = Mul (hidden, temperature)
}"""


def test_weight_norm_trains_and_names_may_begin_with_a_number(caplog, tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "direction": rng.standard_normal((5, 3)).astype(np.float32),
        "length": np.ones((1, 3), np.float32),
        "temperature": np.ones((), np.float32),
    }
    model = network(NORMED, values, opset=17)
    names = {"direction": "0.weight_v", "length": "0.weight_g", "temperature": "4.t"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        trained = Training(model, tmp_path)
    assert "nothing says that they are weights: '4.t'" in caplog.text
    _, gradients = trained.gradients(*batches(1, 5)[0])
    assert set(gradients) == {"0.weight_v", "0.weight_g"}
    assert all(gradient.any() for gradient in gradients.values())
