"""`detach()` in a module that PyTorch's default exporter writes: gradients stop there, or a warning says that not."""

from __future__ import annotations

import copy
import logging
import warnings

import numpy as np
import onnx_ir as ir
import pytest

from onnx_cbp.graph_passes.core.stopped import lost_stops, stops_gradients
from support.models import parse
from support.stepping import Training

CALL = "%{0} : [num_users=1] = call_function[target=torch.ops.aten.{1}](args = ({2},), kwargs = {{}})"


def _network():
    """A straight-through estimator, and what looks at another branch without moving it."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            y = self.first(x)
            rounded = y + ((y * 4).round() / 4 - y).detach()
            return (rounded - self.second(x).detach()).square().mean() + rounded.mean() * self.second(x).mean()

    torch.manual_seed(2)
    return Network()


@pytest.mark.torch
@pytest.mark.native
@pytest.mark.parametrize("optimize", [False, True], ids=["as it is", "optimized"])
def test_gradients_stop_or_a_warning_says_where_not(optimize, tmp_path, caplog):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed here")
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    network = _network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        sizes = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.onnx.export(
            copy.deepcopy(network),
            (torch.randn(3, 4),),
            dynamo=True,
            optimize=optimize,
            dynamic_shapes=sizes,
            verbose=False,
        )
    names = [name for name, _ in network.named_parameters()]
    with caplog.at_level(logging.WARNING, "onnx_cbp"):
        trained = Training(program.model_proto, tmp_path, requires_grad=names, loss=None)
    assert ("where the module calls detach()" in caplog.text) == optimize
    x = torch.randn(5, 4)
    exact = network.double()
    exact(x.double()).backward()
    _, gradients = trained.gradients(x.numpy())
    agree = [
        np.allclose(gradients[name], value.grad.numpy(), rtol=1e-4, atol=1e-5)
        for name, value in exact.named_parameters()
    ]
    assert all(agree) or optimize


def test_copies_that_an_optimizer_removed_are_found():
    model = ir.from_proto(
        parse(
            '<ir_version: 8, opset_import: ["" : 18]> agraph (float[N] x) => (float[N] z) '
            "{ y = Exp (x)  d = Identity (y)  e = Identity (d)  z = Mul (e, y) }"
        )
    )
    calls = [("exp", "exp.default", "%x"), ("detach", "detach.default", "%exp"), ("alias", "alias.default", "%detach")]
    for node, call in zip(model.graph, [*calls, ("mul", "mul.Tensor", "%alias, %detach_1")], strict=True):
        node.metadata_props["pkg.torch.onnx.fx_node"] = CALL.format(*call)
    assert [stops_gradients(node) for node in model.graph] == [False, True, False, False]
    assert {name: node.op_type for name, node in lost_stops(model.graph).items()} == {"detach_1": "Mul"}
