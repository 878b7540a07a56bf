"""Networks that PyTorch exports, by both exporters, finalized: they give what the module gives in evaluation mode."""

from __future__ import annotations

import copy
import io
import logging
import warnings

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.models import op_types
from support.ops import session

pytestmark = pytest.mark.torch

CLASSES = 5


def _network():
    """Convolutions (grouped, depthwise), Linear and batch norms between what ONNX Runtime's gradient builder fuses."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.grouped, self.norm2 = nn.Conv2d(8, 6, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(6)
            self.depthwise, self.norm3 = nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6, eps=1e-3)
            self.layer_norm, self.dropout = nn.LayerNorm(6), nn.Dropout(0.3)
            self.linear, self.norm4 = nn.Linear(6, CLASSES, bias=False), nn.BatchNorm1d(CLASSES)

        def forward(self, x):
            x = torch.relu(self.norm1(self.first(x)))
            x = nn.functional.gelu(self.norm2(self.grouped(x)))
            x = nn.functional.silu(self.norm3(self.depthwise(x)))
            return self.norm4(self.linear(self.dropout(self.layer_norm(x.mean((2, 3))))))

    torch.manual_seed(0)
    network = Network()
    for _ in range(3):  # running statistics of its own
        network(torch.randn(4, 3, 8, 8) * 2 + 1)
    return network


def _export(network, *, training: bool, dynamo: bool, opset: int = 17) -> onnx.ModelProto:
    import torch

    network = copy.deepcopy(network).train(training)
    start = {name: value.detach().clone().numpy() for name, value in network.state_dict().items()}
    x = torch.randn(4, 3, 8, 8)
    names = {"input_names": ["x"], "output_names": ["logits"]}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        if dynamo:
            pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
            shapes = {"x": {0: torch.export.Dim("N")}}
            program = torch.onnx.export(
                network, (x,), dynamo=True, optimize=False, dynamic_shapes=shapes, verbose=False, **names
            )
            return program.model_proto
        torch.onnx.export(
            network,
            (x,),
            file,
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=opset,
            dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
            **names,
        )
    model = onnx.load_from_string(file.getvalue())
    for tensor in model.graph.initializer:
        # The exporter runs the network, and in training mode that moves the running statistics.
        if tensor.name in start:
            tensor.CopyFrom(onnx.numpy_helper.from_array(start[tensor.name], tensor.name))
    return model


def _evaluated(network, x: np.ndarray) -> np.ndarray:
    """What the module gives, in float64."""
    import torch

    with torch.no_grad():
        return copy.deepcopy(network).double().eval()(torch.from_numpy(x).double()).numpy()


def _check(final: onnx.ModelProto, network) -> None:
    onnx.checker.check_model(final, full_check=True)
    assert {opset.domain for opset in final.opset_import} == {""}
    assert not final.functions
    assert [v.name for v in final.graph.output] == ["logits"]
    assert [v.name for v in final.graph.input] == ["x"]
    assert final.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert not {"BatchNormalization", "Dropout"} & set(op_types(final))
    x = np.random.default_rng(0).normal(1, 2, (7, 3, 8, 8)).astype(np.float32)
    (got,), want = session(final, None).run(None, {"x": x}), _evaluated(network, x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_exported_forward_graphs(training, dynamo):
    network = _network()
    _check(onnx_cbp.finalize(_export(network, training=training, dynamo=dynamo)), network)


@pytest.mark.parametrize("norm", [True, False], ids=["batch norm", "none"])
def test_three_dimensional_convolutions_without_a_bias(norm):
    """The default exporter writes zeros of rank 2 for it, with which no runtime computes the convolution."""
    import torch
    from torch import nn

    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    torch.manual_seed(0)
    layers = [nn.Conv3d(2, 4, 2, bias=False), nn.BatchNorm3d(4) if norm else nn.Tanh()]
    network = nn.Sequential(*layers).eval()
    x = torch.randn(2, 2, 4, 5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        program = torch.onnx.export(network, (x,), dynamo=True, optimize=False, verbose=False, input_names=["x"])
    final = onnx_cbp.finalize(program.model_proto)
    assert [node.op_type for node in final.graph.node] == ["Conv"] + ([] if norm else ["Tanh"])
    want = _evaluated(network, x.numpy())
    np.testing.assert_allclose(session(final, None).run(None, {"x": x.numpy()})[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.training
def test_a_trained_network_with_what_the_gradient_builder_fuses(tmp_path):
    import torch

    from onnx_cbp.training import Artifacts, Trainer, load_api
    from support.training import generate

    logging.disable(logging.INFO)  # ONNX Runtime's gradient builder tells every step that it takes
    try:
        network = _network()
        artifacts: Artifacts = generate(_export(network, training=True, dynamo=False, opset=15), tmp_path)
        trained = Trainer.load(artifacts)
        rng = np.random.default_rng(0)
        for _ in range(3):
            trained.step((rng.normal(1, 2, (6, 3, 8, 8)).astype(np.float32), np.arange(6) % CLASSES))
    finally:
        logging.disable(logging.NOTSET)
    fused = set(op_types(onnx.load(artifacts.training_model)))
    assert {"Gelu", "QuickGelu", "LayerNormalization", "Dropout"} <= fused
    load_api().CheckpointState.save_checkpoint(trained.state, str(tmp_path / "trained"))
    values = {name: torch.from_numpy(value) for name, value in trained.values().items()}
    network.load_state_dict(values, strict=False)  # it counts batches, and ONNX does not
    for source in (artifacts.training_model, tmp_path / "eval_model.onnx"):
        _check(onnx_cbp.finalize(source, checkpoint=tmp_path / "trained"), network)
    _check(onnx_cbp.finalize(onnx_cbp.rewrite(artifacts.training_model), checkpoint=tmp_path / "trained"), network)
