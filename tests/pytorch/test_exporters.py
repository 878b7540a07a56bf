"""What PyTorch's exporters make of a batch norm: what `inspect` says of it, and that it trains as in PyTorch."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_cbp import OnnxCbpError, inspect, rewrite
from support.ops import session

pytestmark = pytest.mark.torch

MOMENTUM = 0.3  # PyTorch's: the new part


def network(trains: bool, seed: int = 0):
    """Convolution, batch norm, ReLU, and a convolution with a bias; the batch norm as a fresh model has it."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=MOMENTUM), nn.ReLU(), nn.Conv2d(4, 5, 1))
    return nn.Sequential(*layers).train(trains)


def data(seed: int = 1):
    import torch

    return torch.from_numpy(np.random.default_rng(seed).normal(2.0, 3.0, (2, 3, 8, 8)).astype(np.float32))


def export(model, path, *, dynamo: bool, **options) -> onnx.ModelProto:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated, and of training mode
        torch.onnx.export(copy.deepcopy(model), (data(),), str(path), dynamo=dynamo, input_names=["x"], **options)
    return onnx.load(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Models by (trains, optimize) of the default exporter, and "legacy" and "legacy eval" of the older one."""
    import torch

    folder = tmp_path_factory.mktemp("exported")
    found = {}
    for trains in (True, False):
        for optimize in (True, False):
            path = folder / f"{trains}{optimize}.onnx"
            found[trains, optimize] = export(network(trains), path, dynamo=True, optimize=optimize, verbose=False)
    options = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    found["legacy"] = export(network(True), folder / "legacy.onnx", dynamo=False, **options)
    found["legacy eval"] = export(network(False), folder / "legacy_eval.onnx", dynamo=False)
    options["training"] = torch.onnx.TrainingMode.EVAL
    found["legacy unfolded"] = export(network(False), folder / "legacy_unfolded.onnx", dynamo=False, **options)
    return found


def with_statistics(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the updated statistics of its training batch norm as outputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    (node,) = [node for node in result.graph.node if node.op_type == "BatchNormalization"]
    result.graph.output.extend(helper.make_tensor_value_info(name, 1, [4]) for name in node.output[1:3])
    return result


def trained_in_float64(running_mean, running_var):
    """(Y, running mean, running variance after a step as ONNX has it: with the batch's biased variance)."""
    import torch

    model, x = network(True).double(), data().double()
    with torch.no_grad():
        model[1].running_mean.copy_(torch.tensor(running_mean))
        before = model[0](x)
        y = model(x)
    var = (1 - MOMENTUM) * running_var + MOMENTUM * before.var((0, 2, 3), unbiased=False).numpy()
    return [y.numpy(), model[1].running_mean.numpy(), var]


def assert_trains(model: onnx.ModelProto) -> None:
    """Statistics begin as the file has them: the older exporter runs a model, which updates them, before it writes."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    want = trained_in_float64(values["1.running_mean"], values["1.running_var"])
    results = session(rewrite(with_statistics(model)), "auto").run(None, {"x": data().numpy()})
    for got, expected in zip(results, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_legacy_exporters_training_form(exported):
    (found,) = inspect(exported["legacy"])
    assert found.rewritten
    assert_trains(exported["legacy"])


@pytest.mark.parametrize("kind", [(True, False), (False, False), "legacy unfolded"])
def test_inference_form_is_made_to_train(exported, kind):
    import onnx_ir as ir

    from onnx_cbp.graph_passes import TrainBatchNormsPass

    model = exported[kind]
    (found,) = inspect(model)
    assert not found.rewritten
    assert "so it is frozen" in found.explanation
    assert f"--train '{found.node}'" in found.explanation
    trained = ir.to_proto(TrainBatchNormsPass(found.node)(ir.from_proto(model)).model)
    onnx.checker.check_model(trained)
    (node,) = [node for node in trained.graph.node if node.op_type == "BatchNormalization"]
    names = {initializer.name for initializer in trained.graph.initializer}
    assert set(node.input[1:]) <= names, "statistics that the exporter merged with weights are parameters of their own"
    assert_trains(trained)
    (y,) = session(rewrite(model, train="*"), "auto").run(None, {"x": data().numpy()})
    np.testing.assert_allclose(y, trained_in_float64(np.zeros(4), np.ones(4))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trains", [True, False])
def test_a_folded_one_is_named_as_lost(exported, trains):
    model = exported[trains, True]
    (found,) = inspect(model)
    assert (found.form, found.rewritten) == ("folded into Conv", False)
    assert "optimize=False" in found.explanation
    assert "probably" not in found.explanation
    with pytest.raises(OnnxCbpError, match="cannot be made to train: the exporter folded a batch norm into it"):
        rewrite(model, train="*")
    assert rewrite(model) == model


def test_the_legacy_exporter_leaves_names_only(exported):
    (found,) = inspect(exported["legacy eval"])
    assert found.form == "folded into Conv"
    assert "probably" in found.explanation


def test_no_batch_norm_is_seen_where_none_was(tmp_path):
    from torch import nn

    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(144, 2))
    for dynamo in (True, False):
        assert inspect(export(plain, tmp_path / "plain.onnx", dynamo=dynamo)) == []


def test_a_layer_norm_behind_a_convolution_is_none(tmp_path):
    from torch import nn

    norms = (nn.LayerNorm(6), nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4))
    for norm in norms:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), norm)
        assert [f for f in inspect(export(model, tmp_path / "norm.onnx", dynamo=True)) if f.rewritten] == []


def test_values_of_merged_initializers(exported):
    """In the older exporter's evaluation form the statistics of a fresh batch norm are copies of its weights."""
    import onnx_ir as ir

    from onnx_cbp.graph_passes import TrainBatchNormsPass

    model = ir.to_proto(TrainBatchNormsPass()(ir.from_proto(exported["legacy unfolded"])).model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(values["1.running_mean"], np.zeros(4))
    np.testing.assert_array_equal(values["1.running_var"], np.ones(4))
