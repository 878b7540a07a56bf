"""One training step of torchvision's and timm's networks on plain onnxruntime, against PyTorch in float64.

    pip install torch torchvision timm onnxscript '.[cpu]'
    python benchmarks/families.py                       # all, by both exporters: an hour on two cores
    python benchmarks/families.py resnet18 timm/dla34 --exporter legacy

Every network has random weights, vectors that are not 0 or 1, and no random ops (dropout and stochastic depth drop
nothing). It is exported with a batch of 2 and run with one of 4. Printed are, for each: how many parameters train, the
relative error of the loss, the largest error of a gradient relative to its tensor's largest element, and the same of
PyTorch's own float32, of which there are three: as it is, with channels last, and with the samples in reverse. A
gradient is right where its error is at most 1e-5, or at most 1.5 times the largest of these in the same tensor; one
that is zero in exact arithmetic is measured by the largest of all. The loss is right where its error is at most 1e-6,
or 3 times PyTorch's: a single number's error is as good as drawn by lot. Ends with 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import copy
import io
import multiprocessing
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

SEED, TRACED, BATCH, CLASSES = 16, 2, 4, 10
EXPORTERS = ("legacy", "default")
#: torchvision's builders, with the size of an image and what else they are given.
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {}),
    "resnet50": (64, {}),
    "resnext50_32x4d": (64, {}),
    "wide_resnet50_2": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "densenet121": (64, {}),
    "googlenet": (64, {"aux_logits": False, "init_weights": False}),
    "inception_v3": (96, {"aux_logits": False, "init_weights": False}),
    "shufflenet_v2_x0_5": (64, {}),
    "mnasnet0_5": (64, {}),
    "squeezenet1_1": (64, {}),
    "regnet_y_400mf": (64, {}),
    "regnet_x_400mf": (64, {}),
    "convnext_tiny": (64, {}),
    "vgg11_bn": (64, {}),
    "alexnet": (64, {}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "maxvit_t": (64, {"input_size": (64, 64), "partition_size": 2}),
}
#: Those of timm: the size of an image, 0 where the network is not told it, and what else they are given.
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet26d": (64, {}),
    "resnetv2_50": (64, {}),
    "efficientnet_lite0": (64, {}),
    "tf_efficientnet_b0": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small": (64, {}),
    "ghostnet_050": (64, {}),
    "ghostnetv2_100": (64, {}),
    "res2net50_14w_8s": (64, {}),
    "levit_128s": (224, {}),
    "convnext_atto": (64, {}),
    "convnextv2_atto": (64, {}),
    "vit_tiny_patch16_224": (64, {"img_size": 64}),
    "deit_tiny_patch16_224": (64, {"img_size": 64}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "dm_nfnet_f0": (64, {}),
    "nf_regnet_b1": (64, {}),
    "repvgg_a0": (64, {}),
    "hrnet_w18_small": (64, {}),
    "dla34": (64, {}),
    "cspresnet50": (64, {}),
    "cspdarknet53": (64, {}),
    "edgenext_xx_small": (64, {}),
    "poolformer_s12": (64, {}),
    "coat_tiny": (64, {"img_size": 64}),
    "mobilevit_xxs": (64, {}),
    "mobileone_s0": (64, {}),
    "fastvit_t8": (64, {}),
    "regnety_002": (64, {}),
    "rexnet_100": (64, {}),
    "swin_tiny_patch4_window7_224": (56, {"img_size": 56}),
    "tiny_vit_5m_224": (64, {"img_size": 64}),
    "efficientformer_l1": (224, {}),
    "pvt_v2_b0": (64, {}),
    "xcit_nano_12_p16_224": (64, {}),
    "visformer_tiny": (64, {"img_size": 64}),
    "selecsls42b": (64, {}),
    "vovnet39a": (64, {}),
    "inception_next_atto": (64, {}),
    "gcresnet33ts": (64, {}),
    "botnet26t_256": (64, {"img_size": 64}),
}


def names() -> list[str]:
    """Of all networks; timm's begin with "timm/"."""
    return [*TORCHVISION, *(f"timm/{name}" for name in TIMM)]


def network(name: str) -> Any:
    """A network that trains, with parameters that are not where they begin."""
    import torch

    torch.manual_seed(SEED)
    if name.startswith("timm/"):
        import timm

        net = timm.create_model(name[5:], pretrained=False, num_classes=CLASSES, **TIMM[name[5:]][1])
    else:
        import torchvision

        net = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **TORCHVISION[name][1])
    for module in net.modules():
        for attribute in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    with torch.no_grad():
        for key, value in net.named_parameters():
            if value.dim() == 1 or "gamma" in key or "layer_scale" in key:
                value.add_(torch.randn_like(value) * 0.1)
    return net.train()


def size_of(name: str) -> int:
    """Of an image."""
    return (TIMM[name[5:]] if name.startswith("timm/") else TORCHVISION[name])[0]


def export(net: Any, size: int, exporter: str, folder: Path) -> Any:
    """The forward graph, with a batch that is not fixed."""
    import onnx
    import torch

    net, x = copy.deepcopy(net), torch.randn(TRACED, 3, size, size)
    more: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            file = io.BytesIO()
            more |= {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False, "opset_version": 17}
            torch.onnx.export(net, (x,), file, dynamo=False, dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, **more)
            return onnx.load_from_string(file.getvalue())
        more |= {"optimize": False, "external_data": False, "opset_version": 20, "verbose": False}
        shapes = ({0: torch.export.Dim("N", min=2, max=4096)},)
        torch.onnx.export(net, (x,), str(folder / "model.onnx"), dynamo=True, dynamic_shapes=shapes, **more)
        return onnx.load(folder / "model.onnx")


def by_torch(net: Any, x: Any, labels: Any) -> tuple[float, dict[str, Any]]:
    """The loss and the gradients."""
    import torch

    net.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(x), labels)
    loss.backward()
    return loss.item(), {n: p.grad.double().numpy() for n, p in net.named_parameters() if p.grad is not None}


def compare(name: str, exporter: str) -> str:
    """One line of the table."""
    import numpy as np
    import torch

    from onnx_cbp.training import generate_artifacts
    from onnx_cbp.training.api import CheckpointState, Module

    net, size = network(name), size_of(name)
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(BATCH, 3, size, size, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    want_loss, want = by_torch(copy.deepcopy(net).double(), x.double(), labels)
    ways = [
        by_torch(copy.deepcopy(net), x, labels),
        by_torch(copy.deepcopy(net).to(memory_format=torch.channels_last), x, labels),
        by_torch(copy.deepcopy(net), x.flip(0), labels.flip(0)),
    ]
    first = {id(parameter): key for key, parameter in net.named_parameters()}
    alias = {key: first[id(p)] for key, p in net.named_parameters(remove_duplicate=False)}
    with tempfile.TemporaryDirectory() as folder:
        model = export(net, size, exporter, Path(folder))
        normalises = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in net.modules())
        arguments = {"train_batch_norms": "*"} if exporter == "default" and normalises else {}
        started = time.perf_counter()
        generate_artifacts(
            model,
            loss="CrossEntropyLoss",
            optimizer="SGD",
            artifact_directory=folder,
            builder="onnx_cbp",
            requires_grad=[each.name for each in model.graph.initializer if alias.get(each.name) in want],
            **arguments,
        )
        built = time.perf_counter() - started
        state = CheckpointState.load_checkpoint(Path(folder) / "checkpoint")
        module = Module(Path(folder) / "training_model.onnx", state)
        loss = float(module(x.numpy(), labels.numpy()))
        got = {key: p.grad for key, p in state.parameters if p.requires_grad}
    for other, name_of_it in alias.items():  # a tied parameter may have the name of any module that has it
        if other in got and other != name_of_it:
            got[name_of_it] = got.get(name_of_it, 0) + got.pop(other)
    missing = sorted(set(want) - set(got))
    largest = max(np.abs(gradient).max() for gradient in want.values())
    worst = worst_single = 0.0
    wrong = []
    for key in want.keys() & got.keys():
        scale = np.abs(want[key]).max()
        scale = largest if scale < 1e-9 * largest else scale
        error, *singles = (float(np.abs(e[key] - want[key]).max() / scale) for e in (got, *(g for _, g in ways)))
        others = max(singles)
        worst, worst_single = max(worst, error), max(worst_single, others)
        if not error <= max(1e-5, 1.5 * others):
            wrong.append((error / max(others, 1e-12), f"{key} {error:.1e} (float32 {others:.1e})"))
    off, *singles = (abs(each - want_loss) / abs(want_loss) for each in (loss, *(single for single, _ in ways)))
    single_off = max(singles)
    verdict = "right"
    if wrong or missing or not off <= max(1e-6, 3 * single_off):
        verdict = f"WRONG: {len(wrong)} of {len(want)} gradients, {max(wrong)[1] if wrong else 'none'}"
        verdict += f"; loss in float32 {single_off:.0e}; missing {missing[:4]}"
    numbers = f"{len(got)} | {off:.0e} | {worst:.0e} | {worst_single:.0e}"
    return f"| {name} | {exporter} | {numbers} | {verdict} ({built:.0f} s)"


def main() -> int:
    """Compare what is named, each in a process of its own, so that a crash or a lack of memory is one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks; all by default")
    parser.add_argument("--exporter", choices=EXPORTERS, help="both by default")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one")
    parser.add_argument("--here", action="store_true", help="in this process, with its traceback")
    given = parser.parse_args()
    bad = 0
    for name in given.names or names():
        for exporter in [given.exporter] if given.exporter else EXPORTERS:
            line = compare(name, exporter) if given.here else _apart(name, exporter, given.timeout)
            bad += "| right" not in line
            print(line, flush=True)
    return int(bad > 0)


def _apart(name: str, exporter: str, timeout: float) -> str:
    """The line, from a copy of this process, which has imported all that takes long."""
    import timm  # noqa: F401
    import torchvision  # noqa: F401

    import onnx_cbp.training.api  # noqa: F401

    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(writer, name, exporter))
    process.start()
    writer.close()
    result = f"FAILED: more than {timeout:.0f} s"
    try:
        if reader.poll(timeout):
            result = reader.recv()
    except EOFError:
        process.join()
        result = f"FAILED: the process ended with {process.exitcode}"
    process.kill()
    process.join()
    return result if result.startswith("| ") else f"| {name} | {exporter} | | | | | {result}"


def _send(writer: Any, name: str, exporter: str) -> None:
    try:
        result = compare(name, exporter)
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        result = f"FAILED: {type(error).__name__}: {lines[0][:300]}"
    writer.send(result)


if __name__ == "__main__":
    sys.exit(main())
