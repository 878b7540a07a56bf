"""`update_bn` gives what `torch.optim.swa_utils.update_bn` gives."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_cbp

pytestmark = pytest.mark.torch

MOMENTA = (0.1, 0.7, None)
KEPT = 0.7


class Network:
    """Layers of one rank, made on demand so that the module is imported without PyTorch."""

    def __new__(cls, rank: int, seed: int = 0, **options):
        import torch
        from torch import nn

        torch.manual_seed(seed)
        conv = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank]
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank]
        kernel = () if rank == 0 else (3,)

        class Layers(nn.Module):
            """A first batch norm, one that is called twice, one without scale and bias, and one of another momentum."""

            def __init__(self):
                super().__init__()
                # The default exporter makes no valid model of a Conv3d without a bias.
                self.first, self.bn1 = conv(3, 4, *kernel, bias=rank == 3), norm(4, momentum=MOMENTA[0])
                self.twice = norm(4, momentum=MOMENTA[1])
                self.second, self.bn2 = conv(4, 5, *kernel), norm(5, affine=False, momentum=MOMENTA[2])
                self.untracked = norm(5, track_running_stats=False) if options.get("untracked") else nn.Identity()
                self.bn3 = norm(5)

            def forward(self, x):
                x = torch.relu(self.bn1(self.first(x)))
                x = self.twice(torch.tanh(self.twice(x)))
                return self.bn3(self.untracked(torch.relu(self.bn2(self.second(x)))))

        network = Layers()
        for module in batch_norms(network).values():  # nothing is equal, so that no exporter makes it one tensor
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
        if options.get("frozen"):
            network.bn1.eval()
            network.bn1.requires_grad_(False)
        return network


def batch_norms(network):
    from torch.nn.modules.batchnorm import _BatchNorm

    named = network.named_modules()
    return {name: m for name, m in named if isinstance(m, _BatchNorm) and m.running_mean is not None}


def data(rank, sizes=(8, 5, 2), seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.5, 1.0, (size, 3, *(6,) * rank)).astype(np.float32) for size in sizes]


def exported(network, rank, form, *, fixed=False):
    """As the default exporter writes it, which knows inference only, or the older one in the mode that modules have."""
    import torch

    network, file = copy.deepcopy(network), io.BytesIO()
    x = (torch.from_numpy(data(rank)[0]),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated, and of training mode
        if form == "default":
            batch = ({0: torch.export.Dim("N", min=2)},)
            program = torch.onnx.export(
                network.eval(), x, dynamo=True, optimize=False, dynamic_shapes=batch, verbose=False
            )
            return program.model_proto
        torch.onnx.export(
            network.eval() if form == "legacy, inference" else network,
            x,
            file,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamic_axes=None if fixed else {"input": {0: "N"}},
            input_names=["input"],
            opset_version=15,
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


def equals(got, network, count=4):
    """Every running statistic is PyTorch's to 1e-5."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in got.graph.initializer}
    modules = batch_norms(network)
    assert len(modules) == count
    for name, module in modules.items():
        for statistic in ("running_mean", "running_var"):
            want = getattr(module, statistic).numpy()
            np.testing.assert_allclose(values[f"{name}.{statistic}"], want, rtol=1e-5, atol=1e-5, err_msg=name)


def updated(network, batches):
    """The network in double, with PyTorch's new statistics."""
    import torch
    from torch.optim.swa_utils import update_bn

    want = copy.deepcopy(network).double()
    update_bn([torch.from_numpy(x).double() for x in batches], want)
    return want


FORMS = [(form, rank) for form in ("legacy", "legacy, inference") for rank in range(4)] + [
    ("default", 1),
    ("default", 3),
]


@pytest.mark.parametrize(("form", "rank"), FORMS)
def test_equals_pytorchs(form, rank):
    network, batches = Network(rank), data(rank)
    equals(onnx_cbp.update_bn(exported(network, rank, form), batches), updated(network, batches))


def test_frozen_ones_are_taken_too():
    network, batches = Network(2, frozen=True), data(2)
    equals(onnx_cbp.update_bn(exported(network, 2, "legacy"), batches), updated(network, batches))


@pytest.mark.parametrize("frozen", [False, True])
def test_one_that_tracks_no_statistics_has_none_to_update(frozen):
    """The older exporter writes the size of the batch that it is given into the statistics that it makes of it."""
    network, batches = Network(2, frozen=frozen, untracked=True), data(2, (8, 8))
    model = exported(network, 2, "legacy", fixed=True)
    got = onnx_cbp.update_bn(model, batches)
    equals(got, updated(network, batches))
    assert [(n.op_type, n.input, n.output) for n in got.graph.node] == [
        (n.op_type, n.input, n.output) for n in model.graph.node
    ]


@pytest.mark.parametrize("rank", [1, 2])
def test_of_a_rewritten_export(rank):
    network, batches = Network(rank), data(rank)
    model = onnx_cbp.rewrite(exported(network, rank, "legacy"))
    equals(onnx_cbp.update_bn(model, [(x, np.zeros(len(x))) for x in batches]), updated(network, batches))


@pytest.mark.parametrize(("form", "kept"), [("default", KEPT), ("legacy", KEPT), ("legacy", 0.0), ("legacy", 1.0)])
def test_with_momentum_they_are_those_of_pytorchs_training(form, kept):
    import torch

    network, batches = Network(2), data(2)
    got = onnx_cbp.update_bn(exported(network.eval(), 2, form), batches, momentum=kept)
    want = network.double().train()
    for module in batch_norms(want).values():
        module.momentum = 1 - kept
    with torch.no_grad():
        for x in batches:
            want(torch.from_numpy(x).double())
    equals(got, want)


def test_one_element_a_channel_is_refused_as_by_pytorch():
    network, batches = Network(0), data(0, (8, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        updated(network, batches)
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"batch 1: .* one element a channel"):
        onnx_cbp.update_bn(exported(network, 0, "legacy"), batches)
