"""Gradients of what PyTorch's exporters write, against PyTorch in double, with a batch that was never traced."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_cbp.graph_passes import (
    AttachFunctionsPass,
    FoldShapesPass,
    InlineBranchesPass,
    ReplaceForwardPass,
    TrainBatchNormsPass,
    UnpackSequencesPass,
)
from onnx_cbp.graph_passes.differentiating import differentiate
from support.ops import session

pytestmark = pytest.mark.torch
architectures = pytest.importorskip("support.made_up.architectures", reason="PyTorch is not installed here")

SEED = 20
#: The default exporter takes seconds for a network.
BY_DEFAULT_EXPORTER = (
    *("mobile, squeeze and excitation, hard swish", "shuffles", "ceil mode, overlapping", "group norm, SiLU"),
    *("attention", "patches and a token", "instance norm, PReLU, reflection", "recurrent"),
)
RUNS = [(name, "legacy") for name in architectures.ARCHITECTURES] + [(name, "default") for name in BY_DEFAULT_EXPORTER]


def with_gradients(model: onnx.ModelProto, parameters: list[str], *, trains: bool, exporter: str) -> onnx.ModelProto:
    """The model with a gradient "dy" of its output as an input, and the gradients of the parameters as its outputs."""
    result = ir.from_proto(model)
    for prepare in (FoldShapesPass(), InlineBranchesPass(), FoldShapesPass(), UnpackSequencesPass()):
        prepare(result)
    if trains:
        if exporter == "default":
            TrainBatchNormsPass()(result)
        ReplaceForwardPass(one_pass=True)(result)
    graph = result.graph
    (Y,) = graph.outputs[:1]
    seed = ir.Value(name="dy", type=Y.type, shape=Y.shape)
    gradients = differentiate(result, {Y: seed}, [graph.initializers[name] for name in parameters])
    graph.inputs.append(seed)
    del graph.outputs[1:]
    for name, gradient in zip(parameters, gradients, strict=True):
        assert gradient is not None, name
        output = ir.Value(name=f"{name}_grad", type=gradient.type, shape=gradient.shape)
        graph.append(ir.node("Identity", [gradient], outputs=[output]))
        graph.outputs.append(output)
    AttachFunctionsPass()(result)
    return ir.to_proto(result)


def by_torch(net, x, dy) -> dict[str, np.ndarray]:
    import torch

    y = net(x)
    names = [name for name, _ in net.named_parameters()]
    found = torch.autograd.grad(y, list(net.parameters()), dy.to(y.dtype))
    return {"y": y.detach().double().numpy(), **{n: d.double().numpy() for n, d in zip(names, found, strict=True)}}


@pytest.mark.parametrize(("name", "exporter"), RUNS, ids=[f"{name}, {exporter}" for name, exporter in RUNS])
def test_gradients_are_pytorchs(name, exporter, tmp_path):
    import torch

    print("seed", SEED)
    net = architectures.network(name, SEED)
    parameters = [parameter for parameter, _ in net.named_parameters()]
    exported = architectures.export(name, net, exporter, tmp_path)
    trains = architectures.ARCHITECTURES[name].trains
    run = session(with_gradients(exported, parameters, trains=trains, exporter=exporter), None)
    for batch in (3, 5):
        x = architectures.data(name, batch, SEED + batch)
        with torch.no_grad():
            dy = torch.randn(copy.deepcopy(net)(x).shape, generator=torch.Generator().manual_seed(batch))
        wide = x if architectures.ARCHITECTURES[name].tokens else x.double()
        want = by_torch(copy.deepcopy(net).double(), wide, dy)
        single = by_torch(copy.deepcopy(net), x, dy)
        y, *gradients = run.run(None, {"x": x.numpy(), "dy": dy.numpy()})
        np.testing.assert_allclose(y, want["y"], atol=1e-5 * np.abs(want["y"]).max())
        largest = max(np.abs(want[parameter]).max() for parameter in parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            scale = np.abs(want[parameter]).max()
            scale = largest if scale < 1e-9 * largest else scale  # zero, but for rounding
            error, others = (np.abs(each - want[parameter]).max() for each in (gradient, single[parameter]))
            assert error <= max(1e-5 * scale, 1.5 * others), (parameter, error / scale, others / scale)
