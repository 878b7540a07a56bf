"""Small networks by both exporters of PyTorch 2.13, in every form that they write batch norms in.

python models/exporters/torch_networks.py [FOLDER]       needs torch and onnxscript
"""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from expected import CLASSES, batch, by_initializers, fresh, initializers_of, write
from torch import nn

FORMS = (
    *("legacy_training", "legacy_eval_unfolded", "legacy_eval"),
    *("default_training", "default_eval", "default_training_optimized", "default_eval_optimized"),
)


class Pooled(nn.Module):
    """The mean over everything behind the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, ...] -> [N, C]."""
        return x.flatten(2).mean(2)


def network(name: str) -> nn.Sequential:
    """A network whose parameters and statistics are not those of a fresh one."""
    layers = {
        "image": lambda: (
            *(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU6()),
            *(Pooled(), nn.Linear(4, 5), nn.BatchNorm1d(5, eps=1e-3), nn.ReLU(), nn.Linear(5, CLASSES)),
        ),
        "signal": lambda: (
            *(nn.Conv1d(3, 4, 3, dilation=2), nn.BatchNorm1d(4), nn.ReLU()),
            *(nn.Conv1d(4, 5, 3, bias=False), nn.BatchNorm1d(5), nn.ReLU(), Pooled(), nn.Linear(5, CLASSES)),
        ),
        "volume": lambda: (
            *(nn.Conv3d(2, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU()),
            *(nn.Conv3d(4, 3, 3, stride=2), nn.BatchNorm3d(3), nn.ReLU(), Pooled(), nn.Linear(3, CLASSES)),
        ),
    }[name]()
    net = nn.Sequential(*layers)
    for i, (key, value) in enumerate(net.state_dict().items()):
        if value.dtype.is_floating_point:
            value.copy_(torch.from_numpy(fresh(i, key, tuple(value.shape))))
    return net


def export(net: nn.Module, x: torch.Tensor, form: str, path: Path) -> None:
    """Write a network in a form, traced with two samples."""
    exporter, mode = form.split("_")[:2]
    net = copy.deepcopy(net).train(mode == "training")
    x = x[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated, and of training mode
        if exporter == "default":
            shapes = {"input": {0: torch.export.Dim("batch")}}
            torch.onnx.export(
                net,
                (x,),
                str(path),
                dynamo=True,
                dynamic_shapes=shapes,
                optimize=form.endswith("optimized"),
                input_names=["x"],
                output_names=["logits"],
                external_data=False,
                verbose=False,
            )
            without_traces(path)
            return
        kept = mode == "training" or form.endswith("unfolded")
        modes = torch.onnx.TrainingMode
        torch.onnx.export(
            net,
            (x,),
            str(path),
            dynamo=False,
            training=(modes.TRAINING if mode == "training" else modes.PRESERVE if kept else modes.EVAL),
            do_constant_folding=not kept,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
        )


def without_traces(path: Path) -> None:
    """Take out where in which files of a machine the exporter was; all else of the metadata stays."""
    model = onnx.load(path)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for owner in (model, model.graph, *nodes, *model.graph.value_info, *model.graph.initializer, *model.functions):
        kept = [entry for entry in owner.metadata_props if entry.key != "pkg.torch.onnx.stack_trace"]
        del owner.metadata_props[:]
        owner.metadata_props.extend(kept)
    onnx.save(model, path)


def results(net: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> dict:
    """What PyTorch computes in float64."""
    found: dict = {"x": x.numpy(), "labels": labels.numpy()}
    for mode in ("frozen", "train"):
        each = copy.deepcopy(net).double().train(mode == "train")
        logits = each(x.double())
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        found["eval/output" if mode == "frozen" else "train/output"] = logits.detach().numpy()
        found[f"{mode}/loss"] = loss.item()
        found[f"{mode}/gradient"] = {key: value.grad.numpy() for key, value in each.named_parameters()}
    statistics = {key: value.numpy() for key, value in each.named_buffers() if value.dtype.is_floating_point}
    found["train/running"] = statistics
    return found


def with_statistics_of(model: onnx.ModelProto, net: nn.Module) -> nn.Module:
    """A network with the running statistics of a file: in training mode the older exporter moves them."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    result = copy.deepcopy(net)
    for key, value in result.named_buffers():
        if key in arrays and value.dtype.is_floating_point:
            value.copy_(torch.from_numpy(np.array(arrays[key])))
    return result


def kept(model: onnx.ModelProto, net: nn.Module, found: dict) -> dict:
    """The results that a file can be held against: one whose batch norms are folded has other parameters."""
    held = {key: value.numpy() for key, value in net.state_dict().items() if value.dtype.is_floating_point}
    if set(initializers_of(model, held)) == set(held):
        return {k: by_initializers(model, held, v) if isinstance(v, dict) else v for k, v in found.items()}
    return {key: value for key, value in found.items() if key in ("x", "labels", "eval/output", "frozen/loss")}


def main(folder: Path) -> None:
    """Write all of them."""
    for name in ("image", "signal", "volume"):
        net = network(name)
        x, labels = (torch.from_numpy(value) for value in batch(name))
        for form in FORMS:
            path = folder / f"torch_{form}_{name}.onnx"
            export(net, x, form, path)
            model = onnx.load(path)
            same = with_statistics_of(model, net)
            write(path.with_suffix(".npz"), kept(model, same, results(same, x, labels)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "networks")
