"""Training forms of BatchNormalization before training_mode: ONNX Runtime has no kernel for them, so numpy judges."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference.ops.op_batch_normalization import BatchNormalization_6

import onnx_cbp
from support.models import op_types
from support.ops import session

STATISTICS = ("scale", "b", "mean", "var")


def _model(opset, outputs, **attributes):
    node = helper.make_node("BatchNormalization", ["x", *STATISTICS], outputs, name="bn", **attributes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 5])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in STATISTICS]
    results = [helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, ["N", 3, 4, 5])]
    results += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in outputs[1:]]
    graph = helper.make_graph([node], "g", inputs, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _feeds():
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(2.0, 3.0, (6, 3, 4, 5)), **{name: rng.uniform(0.5, 2.0, 3) for name in STATISTICS}}
    return {name: value.astype(np.float32) for name, value in feeds.items()}


def _want(feeds, epsilon, momentum):
    wide = {name: value.astype(np.float64) for name, value in feeds.items()}
    mean, var = wide["x"].mean((0, 2, 3)), wide["x"].var((0, 2, 3))
    column = (slice(None), None, None)
    x_hat = (wide["x"] - mean[column]) / np.sqrt(var + epsilon)[column]
    y = wide["scale"][column] * x_hat + wide["b"][column]
    running = [wide[n] * momentum + batch * (1 - momentum) for n, batch in (("mean", mean), ("var", var))]
    return [y, *running, mean, var]


@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("opset", [7, 8, 9, 10, 12, 13])
def test_five_outputs_are_the_training_form(opset, backend):
    outputs = ["y", "new_mean", "new_var", "saved_mean", "saved_var"]
    model = _model(opset, outputs, epsilon=1e-3, momentum=0.75)
    rewritten = onnx_cbp.rewrite(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert [o.name for o in rewritten.graph.output] == outputs
    feeds = _feeds()
    for got, want in zip(session(rewritten, backend).run(None, feeds), _want(feeds, 1e-3, 0.75), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("attributes", [{}, {"is_test": 0}])
def test_is_test_says_so_before_opset_seven(opset, attributes):
    if opset == 1:
        attributes = {**attributes, "consumed_inputs": [0, 0, 0, 1, 1]}
    model = _model(opset, ["y"], epsilon=1e-3, momentum=0.75, **attributes)
    rewritten = onnx_cbp.rewrite(model)
    onnx.checker.check_model(rewritten)
    assert op_types(rewritten) == ["BatchNormTrain"]
    feeds = _feeds()
    if opset == 6:
        # Called by itself: ReferenceEvaluator refuses the tuple that onnx's own class returns in training mode.
        reference = BatchNormalization_6._run(None, *feeds.values(), epsilon=1e-3, is_test=0, momentum=0.75)
        want = np.asarray(reference[0][0])
        np.testing.assert_allclose(want, _want(feeds, 1e-3, 0.75)[0], rtol=1e-5, atol=1e-5)
    rewritten.opset_import[0].version = 7  # ONNX Runtime starts here; the ops are the same
    np.testing.assert_allclose(
        session(rewritten, "auto").run(None, feeds)[0], _want(feeds, 1e-3, 0.75)[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("opset", "outputs", "attributes", "reason"),
    [
        (6, ["y"], {"is_test": 1}, "running statistics"),
        (9, ["y"], {}, "running statistics"),
        (8, ["y", "m", "v", "sm", "sv"], {"spatial": 0}, "spatial = 0"),
    ],
)
def test_other_forms_are_left_alone(opset, outputs, attributes, reason):
    model = _model(opset, outputs, **attributes)
    (finding,) = onnx_cbp.inspect(model)
    assert not finding.rewritten
    assert reason in finding.explanation
    assert onnx_cbp.rewrite(model) == model


def _light_resnet50():
    from pathlib import Path

    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
    if not path.exists():
        pytest.skip(f"onnx {onnx.__version__} does not ship light_resnet50.onnx")
    return onnx.load(path)


def test_the_zoos_resnet50():
    model = _light_resnet50()
    findings = onnx_cbp.inspect(model)
    assert len(findings) == 53
    assert not any(f.rewritten for f in findings)
    assert all(f.shape.startswith("[") for f in findings)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            del node.attribute[1:]
            node.output.extend(f"{node.output[0]}_{name}" for name in ("mean", "var", "saved_mean", "saved_var"))
    rewritten = onnx_cbp.rewrite(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert op_types(rewritten).count("BatchNormTrainUpdate") == 53
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    (result,) = session(rewritten, "auto", threads=2).run(None, {model.graph.input[0].name: image})
    assert np.isfinite(result).all()
