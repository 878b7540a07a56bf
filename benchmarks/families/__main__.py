"""One training step of torchvision's and timm's networks on plain onnxruntime, against PyTorch in float64.

    pip install torch torchvision timm onnxscript '.[cpu]'
    python benchmarks/families                       # all, by both exporters: hours on two cores
    python benchmarks/families resnet18 timm/dla34 --exporter legacy

Every network has random weights, vectors that are not 0 or 1, and no random ops (dropout and stochastic depth drop
nothing). It is exported with a batch of 2 and run with one of 4. Errors are relative: of the loss, and of each gradient
to its tensor's largest element (one that is zero in exact arithmetic: to the largest of all). Two things must hold:

- the training graph itself, computed in double, is within 1e-6 of PyTorch's float64: then every rule is right. What is
  left are constants and epsilons, which files of float networks hold as floats. A network that is beyond is held
  against PyTorch's float64 once more, with these constants as floats there, too;
- what onnxruntime computes of it in float is within 1e-5 (the loss 1e-6), or no further off than PyTorch's own float32
  in the same tensor, in the worst of three orders of the same sums. Where a ReLU's input is within rounding of zero,
  one rounding turns a sample over. So a gradient that is beyond its limit is held against the graph in double once
  more, with what the float graph decided (signs, elements of pools), where rounding alone is left: 1e-5,
  or PyTorch's own there; or against PyTorch's float32 from 12 images more, which differ in their last bits.

Printed are, for each: how many parameters train, the errors of the loss and of the worst gradient in double and in
float, the worst of PyTorch's float32, and how many gradients were held with the same decisions, with their worst error
there. Ends with 1 where something is wrong.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from networks import CLASSES, SEED, names, network, size_of

TRACED, BATCH = 2, 4
EXPORTERS = ("legacy", "default")


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


def compare(name: str, exporter: str) -> str:
    """One line of the table."""
    import onnx
    import torch
    from decisions import decisions, with_visible_decisions
    from in_double import in_double
    from judging import LIMIT, Step

    from onnx_cbp.training import generate_artifacts
    from onnx_cbp.training.api import CheckpointState, Module

    torch.set_num_threads(1)
    net, size = network(name), size_of(name)
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(BATCH, 3, size, size, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    step = Step(net, x, labels)
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
            requires_grad=[e.name for e in model.graph.initializer if alias.get(e.name) in step.gradients],
            **arguments,
        )
        built = time.perf_counter() - started
        training = Path(folder) / "training_model.onnx"
        state = CheckpointState.load_checkpoint(Path(folder) / "checkpoint")
        parameters = {key: np.array(p.data) for key, p in state.parameters}
        module = Module(training, state)
        feeds = dict(zip(module.input_names(), (x.numpy(), labels.numpy()), strict=True))
        loss = float(module(*feeds.values()))
        got = _by_first_name({key: p.grad for key, p in state.parameters if p.requires_grad}, alias)
        graph = onnx.load(training)
    names_of_gradients = {key: f"{key}_grad" for key, p in state.parameters if p.requires_grad}
    feeds.update(parameters)
    started = time.perf_counter()
    exact = in_double(graph, feeds)
    doubled = time.perf_counter() - started

    def gradients(results: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return _by_first_name({key: results[name] for key, name in names_of_gradients.items()}, alias)

    in_exact = step.judge_exact(float(exact[module.output_names()[0]]), gradients(exact))
    in_single = step.judge_single(loss, got)
    wrong = [*in_exact.wrong, *in_single.wrong]
    wrong += [f"{each} has no gradient" for each in sorted(set(step.gradients) - set(got))]
    decided_alike = "0 | "
    if in_single.beyond:
        graph = with_visible_decisions(graph)
        single, decided = decisions(graph, feeds)
        alike = step.judge_decided(in_single.beyond, gradients(single), gradients(in_double(graph, feeds, decided)))
        far = [name for name, (error, theirs) in alike.items() if not error <= max(LIMIT, theirs)]
        left = step.farther_than_any_draw(far, got)
        wrong += [f"{name} {in_single.beyond[name]}, {alike[name]} with the same decisions" for name in left]
        decided_alike = f"{len(alike)} | {max(error for error, _ in alike.values()):.0e}"
    numbers = [in_exact.loss, in_exact.worst, in_single.loss, in_single.worst, step.worst_of_torch()]
    verdict = f"WRONG: {len(wrong)}: {'; '.join(wrong[:4])}" if wrong else "right"
    columns = [name, exporter, f"{len(got)}", *(f"{each:.0e}" for each in numbers), decided_alike]
    return f"| {' | '.join(columns)} | {verdict} ({built:.0f} s, {doubled:.0f} s in double)"


def _by_first_name(gradients: Mapping[str, Any], alias: Mapping[str, str]) -> dict[str, np.ndarray]:
    """A tied parameter may have the name of any module that has it."""
    result: dict[str, np.ndarray] = {}
    for key, gradient in gradients.items():
        own = alias.get(key, key)
        result[own] = result[own] + gradient if own in result else gradient
    return result


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
    return result if result.startswith("| ") else f"| {name} | {exporter} | | | | | | | | | {result}"


def _send(writer: Any, name: str, exporter: str) -> None:
    try:
        result = compare(name, exporter)
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        result = f"FAILED: {type(error).__name__}: {lines[0][:300]}"
    writer.send(result)


if __name__ == "__main__":
    sys.exit(main())
