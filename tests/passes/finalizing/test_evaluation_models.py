"""Evaluation models of batch norms as ONNX Runtime's generator leaves them: training outputs in inference form."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnx_cbp
from support.models import INFERENCE, parse
from support.ops import session
from support.training import MODELS


def _broken(read: bool = False) -> onnx.ModelProto:
    """The inference form with the outputs of the training form; `read`: the graph has them as outputs."""
    model = parse(INFERENCE)
    node = model.graph.node[0]
    node.attribute.append(helper.make_attribute("training_mode", 0))
    node.output.extend(["new_mean", "new_var"])
    if read:
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in ("new_mean", "new_var")
        )
    return model


def test_what_no_runtime_loads_loads_and_is_right():
    model = _broken()
    with pytest.raises(Exception, match=r"(?i)output"):
        session(model, None)
    x = np.random.default_rng(0).normal(2, 3, (2, 3, 4, 5)).astype(np.float32)
    (got,) = session(onnx_cbp.rewrite(model), None).run(None, {"x": x})
    values = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64)[:, None, None] for t in model.graph.initializer}
    want = values["gamma"] * (x - values["mean"]) / np.sqrt(values["var"] + 1e-3) + values["beta"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_result_is_the_inference_form_and_no_more():
    rewritten = onnx_cbp.rewrite(_broken())
    onnx.checker.check_model(rewritten, full_check=True)
    assert list(rewritten.graph.node[0].output) == ["y"]
    assert {opset.domain for opset in rewritten.opset_import} == {""}
    assert onnx_cbp.rewrite(rewritten) == rewritten


def test_who_reads_the_training_outputs_gets_the_running_statistics():
    model = _broken(read=True)
    x = np.ones((2, 3, 4, 5), np.float32)
    _, mean, var = session(onnx_cbp.rewrite(model), None).run(None, {"x": x})
    np.testing.assert_array_equal(mean, np.float32([1.0, -2.0, 0.25]))
    np.testing.assert_array_equal(var, np.float32([0.5, 4.0, 1.0]))


def test_inspect_says_so():
    (finding,) = onnx_cbp.inspect(_broken())
    assert finding.rewritten
    assert finding.explanation == "loads nowhere: 2 superfluous outputs are dropped"


@pytest.mark.training
def test_the_generators_own_evaluation_model(tmp_path):
    from support.made_up.networks import random_batches, random_network
    from support.training import generate

    forward = random_network(3, 4)
    generate(forward, tmp_path)
    broken = onnx.load(tmp_path / "eval_model.onnx")
    with pytest.raises(Exception, match=r"(?i)output"):
        session(broken, None)
    rewritten = onnx_cbp.rewrite(broken)
    x, labels = random_batches(forward, 1, 0)[0]
    feeds = {t.name: onnx.numpy_helper.to_array(t) for t in forward.graph.initializer}
    feeds |= {"x": x, "labels": labels}
    (loss,) = session(rewritten, None).run(None, {v.name: feeds[v.name] for v in rewritten.graph.input})
    assert np.isfinite(loss)
    assert all(finding.rewritten for finding in onnx_cbp.inspect(broken))


@pytest.mark.parametrize("path", sorted(MODELS.glob("*/eval_model.onnx")), ids=lambda path: path.parent.name)
def test_what_is_repaired_stays_as_it_is(path):
    assert onnx_cbp.rewrite(path) == onnx.load(path)


@pytest.mark.parametrize("opset", [15, 18])
def test_double_data_with_float_statistics_run(opset):
    """ONNX has such a batch norm, and ONNX Runtime no kernel for it."""
    model = parse(f"""<ir_version: 8, opset_import: ["" : {opset}]>
agraph (double[N, 3] x) => (double[N, 3] y, float[3] um, float[3] uv)
<float[3] s = {{1, 2, 3}}, float[3] b = {{0, 0.5, 1}}, float[3] m = {{1, 2, 3}}, float[3] v = {{1, 2, 4}}> {{
    y, um, uv = BatchNormalization <training_mode = 1> (x, s, b, m, v) }}""")
    x = np.random.default_rng(0).normal(1, 2, (4, 3))
    want = (x - [1, 2, 3]) / np.sqrt(np.array([1, 2, 4]) + float(np.float32(1e-5))) * [1, 2, 3] + [0, 0.5, 1]
    (y,) = session(onnx_cbp.finalize(model), None).run(None, {"x": x})
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
