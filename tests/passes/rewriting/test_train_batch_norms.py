"""Batch norms in inference form that are made to train."""

from __future__ import annotations

import logging
from importlib.resources import files

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnx_cbp import OnnxCbpError, inspect, rewrite
from onnx_cbp.graph_passes import TrainBatchNormsPass
from support.models import op_types, parse
from support.ops import session

#: Two batch norms in a row that share their statistics; 'first' has its momentum from the exporter.
INFERENCE = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, H, W] x, float[3] gamma, float[3] beta, float[3] mean, float[3] var) => (float[N, 3, H, W] z)
{
    y = BatchNormalization <epsilon: float = 0.001, momentum: float = 0.8> (x, gamma, beta, mean, var)
    z = BatchNormalization (y, gamma, beta, mean, var)
}
"""


def inference(opset: int = 17) -> onnx.ModelProto:
    model = parse(INFERENCE.replace(": 17", f": {opset}"))
    model.graph.node[0].name, model.graph.node[1].name = "first", "layer2.bn"
    return model


def trained(model: onnx.ModelProto, patterns="*") -> onnx.ModelProto:
    return ir.to_proto(TrainBatchNormsPass(patterns)(ir.from_proto(model)).model)


def normalised(x, gamma, beta, epsilon):
    """Batch norm in float64, with its mean and variance."""
    x = np.asarray(x, np.float64)
    axes, shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
    mean, var = x.mean(axes), x.var(axes)
    y = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + epsilon)
    return y * np.reshape(gamma, shape) + np.reshape(beta, shape), mean, var


def feeds(seed=0):
    rng = np.random.default_rng(seed)
    given = {"x": rng.normal(2.0, 3.0, (4, 3, 5, 6)), **{n: rng.uniform(0.5, 2, 3) for n in ("gamma", "beta")}}
    given |= {n: rng.uniform(0.5, 2, 3) for n in ("mean", "var")}
    return {name: value.astype(np.float32) for name, value in given.items()}


@pytest.mark.parametrize("one_pass", [True, False])
def test_statistics_are_those_of_the_batch_and_running_ones_go_on(one_pass):
    model = trained(inference())
    onnx.checker.check_model(model, full_check=True)
    updated = [name for node in model.graph.node for name in node.output[1:]]
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in updated)
    given = feeds()
    y, mean, var = normalised(given["x"], given["gamma"], given["beta"], 0.001)
    z, second_mean, second_var = normalised(y, given["gamma"], given["beta"], 1e-5)
    want = [z]
    want += [given["mean"] * 0.8 + mean * 0.2, given["var"] * 0.8 + var * 0.2]
    want += [given["mean"] * 0.9 + second_mean * 0.1, given["var"] * 0.9 + second_var * 0.1]
    for got, expected in zip(session(rewrite(model, one_pass=one_pass), "auto").run(None, given), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_rewrite_goes_on_to_our_ops_and_keeps_the_graphs_values():
    model = inference()
    rewritten = rewrite(model, train="*")
    onnx.checker.check_model(rewritten, full_check=True)
    assert op_types(rewritten) == ["BatchNormTrainUpdate", "BatchNormTrainUpdate"]
    assert (rewritten.graph.input, rewritten.graph.output) == (model.graph.input, model.graph.output)
    given = feeds()
    y, *_ = normalised(given["x"], given["gamma"], given["beta"], 0.001)
    z, *_ = normalised(y, given["gamma"], given["beta"], 1e-5)
    (got,) = session(rewritten, "auto").run(None, given)
    np.testing.assert_allclose(got, z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 17])
def test_the_training_form_is_that_of_the_opset(opset):
    model = trained(inference(opset))
    onnx.checker.check_model(model, full_check=True)
    assert [len(node.output) for node in model.graph.node] == [3 if opset >= 14 else 5] * 2
    assert all(f.rewritten for f in inspect(model))
    given = feeds()
    y, *_ = normalised(given["x"], given["gamma"], given["beta"], 0.001)
    z, *_ = normalised(y, given["gamma"], given["beta"], 1e-5)
    (got,) = session(rewrite(model), "auto").run(None, given)
    np.testing.assert_allclose(got, z, rtol=1e-5, atol=1e-5)


def test_opset_6_trains_by_is_test():
    model = inference()
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 6))
    for node in model.graph.node:
        node.attribute.append(helper.make_attribute("is_test", 1))
    assert not any(f.rewritten for f in inspect(model))
    assert all(f.rewritten for f in inspect(trained(model)))


@pytest.mark.parametrize(
    ("patterns", "form"), [("first", [3, 1]), ("layer*", [1, 3]), (["first", "l?yer2.bn"], [3, 3])]
)
def test_only_the_chosen_ones_train(patterns, form):
    assert [len(node.output) for node in trained(inference(), patterns).graph.node] == form


def test_a_second_run_changes_nothing_and_the_pass_says_so():
    model = ir.from_proto(inference())
    assert TrainBatchNormsPass()(model).modified
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not TrainBatchNormsPass("*")(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("nothing", "train: 'nothing' chooses no batch norm of the model; `onnx-cbp inspect` lists their names"),
        (["first", "third*"], "train: 'third*' chooses no batch norm of the model"),
        ([3], "train: 3 is no name of batch norms"),
    ],
)
def test_a_pattern_that_chooses_nothing_is_refused(patterns, message):
    with pytest.raises(OnnxCbpError) as error:
        rewrite(inference(), train=patterns)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_any_batch_norm_is_refused():
    model = parse('<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }')
    with pytest.raises(OnnxCbpError, match="chooses no batch norm of the model: it has none"):
        rewrite(model, train="*")


def test_one_that_was_rewritten_is_named():
    model = rewrite(inference(), train="first")
    name = inspect(model)[0].node
    with pytest.raises(OnnxCbpError, match="cannot be made to train: it is rewritten already"):
        rewrite(model, train=name)


def with_constants(kind: str) -> onnx.ModelProto:
    """The weights as Constant nodes, or as the copies that an exporter makes of initializers that are equal."""
    model = inference()
    given = feeds()
    del model.graph.input[1:]
    nodes = []
    for name in ("gamma", "beta", "mean", "var"):
        tensor = numpy_helper.from_array(given[name], name if kind == "Constant" else f"{name}_shared")
        if kind == "Constant":
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            model.graph.initializer.append(tensor)
            nodes.append(helper.make_node("Identity", [tensor.name], [name]))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return model


@pytest.mark.parametrize("kind", ["Constant", "Identity"])
def test_constants_become_initializers_of_their_own(kind):
    original = with_constants(kind)
    before = original.SerializeToString(deterministic=True)
    model = trained(original)
    assert original.SerializeToString(deterministic=True) == before, "the input is untouched, names of tensors too"
    onnx.checker.check_model(model, full_check=True)
    assert op_types(model) == ["BatchNormalization"] * 2
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name in ("gamma", "beta", "mean", "var"):
        np.testing.assert_array_equal(values[name], feeds()[name])
    given = feeds()
    y, *_ = normalised(given["x"], given["gamma"], given["beta"], 0.001)
    z, *_ = normalised(y, given["gamma"], given["beta"], 1e-5)
    (got,) = session(rewrite(model), "auto").run(None, {"x": given["x"]})
    np.testing.assert_allclose(got, z, rtol=1e-5, atol=1e-5)


LIGHT = files("onnx") / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize("name", ["resnet50", pytest.param("densenet121", marks=pytest.mark.thorough), "inception_v2"])
def test_old_zoo_graphs(name, caplog):
    path = LIGHT / f"light_{name}.onnx"
    if not path.is_file():
        pytest.skip("this onnx package comes without its backend tests' light models")
    model = onnx.load(str(path))
    number = op_types(model).count("BatchNormalization")
    assert number > 40
    found = inspect(model)
    assert len(found) == number
    assert not any(f.rewritten for f in found)
    with caplog.at_level(logging.INFO, "onnx_cbp"):
        rewritten = rewrite(model, train="*")
    assert op_types(rewritten).count("BatchNormTrainUpdate") == number
    assert "BatchNormalization" not in op_types(rewritten)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("copies", "same"), [(("getitem_3", "getitem_4"), True), (("n2.mean", "n2.var"), False)])
def test_calls_of_one_module_update_its_statistics(copies, same, affine):
    # As PyTorch's default exporter writes a module that is called twice. Its older one writes copies of parameters that
    # are equal, which have names of their own and stay parameters of their own.
    text = INFERENCE.replace("(y, gamma, beta, mean, var)", f"(y, {'gamma, beta' if affine else 'one, zero'}, m, v)")
    text = text.replace("    z = ", "    m = Identity (mean)\n    v = Identity (var)\n    z = ")
    text = text.replace("    z = ", "    one = Abs (gamma)\n    zero = Neg (beta)\n    z = ")
    model = parse(text)
    renamed = dict(zip(("m", "v"), copies, strict=True))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    nodes = [node for node in trained(model).graph.node if node.op_type == "BatchNormalization"]
    assert [list(node.input[3:]) for node in nodes] == [["mean", "var"], ["mean", "var"] if same else list(copies)]


@pytest.mark.parametrize("axes", ["H, W", "L"])
def test_the_rank_of_what_trains_is_known_where_only_inference_tells_it(axes):
    """What follows asks for it, and behind an op of ours onnx's inference finds nothing."""
    text = INFERENCE.replace("H, W", axes).replace("{\n", "{\n    h = Relu (x)\n").replace("(x, gamma", "(h, gamma")
    model = parse(text)
    assert not model.graph.value_info
    result = trained(model)
    shapes = {value.name: len(value.type.tensor_type.shape.dim) for value in result.graph.value_info}
    assert shapes["y"] == len(axes.split(",")) + 2
