"""Training artifacts of networks made up in tests, and trainers of the original and the rewritten graph."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnx_cbp
from onnx_cbp.training import Artifacts, Trainer, load_artifacts
from onnx_cbp.training.compare import gradient_differences

MODELS = Path(__file__).parent.parent.parent / "models"


def generate(forward: onnx.ModelProto, folder: Path, loss: Any = None) -> Artifacts:
    """Artifacts of a forward graph (cross entropy, or another loss; AdamW); the running statistics are parameters."""
    artifacts = load_artifacts()
    names = [tensor.name for tensor in forward.graph.initializer]
    statistics = [name for name in names if "running" in name]
    artifacts.generate_artifacts(
        forward,
        requires_grad=[name for name in names if name not in statistics],
        frozen_params=statistics,
        loss=loss or artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.AdamW,
        artifact_directory=str(folder),
    )
    return dataclasses.replace(Artifacts.in_folder(folder), eval_model=None)


def with_relu_inputs(artifacts: Artifacts, folder: Path) -> Artifacts:
    """The same training graph with every ReLU's input among its outputs."""
    model = onnx.load(artifacts.training_model)
    known = {value.name: value for value in model.graph.value_info}
    have = {value.name for value in model.graph.output}
    inputs = {node.input[0] for node in model.graph.node if node.op_type == "Relu"} - have
    model.graph.output.extend(known[name] for name in sorted(inputs))
    path = folder / "with_relu_inputs.onnx"
    onnx.save(model, path)
    return dataclasses.replace(artifacts, training_model=path)


def rewrite(artifacts: Artifacts, folder: Path, **options: bool) -> Artifacts:
    """The artifacts with the training graph rewritten."""
    path = folder / "rewritten.onnx"
    rewritten = onnx_cbp.rewrite(artifacts.training_model, **options)
    onnx.checker.check_model(rewritten, full_check=True)
    assert not {"BatchNormInternal", "BatchNormalizationGrad"} & {n.op_type for n in rewritten.graph.node}
    onnx.save(rewritten, path)
    return dataclasses.replace(artifacts, training_model=path)


def trainer(artifacts: Artifacts, backend: str | None = None, learning_rate: float = 1e-3) -> Trainer:
    """A trainer, with the ops of a backend registered."""
    options = ort.SessionOptions()
    if backend is not None:
        onnx_cbp.register(options, backend)
    made = Trainer.load(artifacts, options)
    made.optimizer.set_learning_rate(learning_rate)
    return made


@dataclasses.dataclass
class Step:
    """One step of both graphs from the same state.

    Attributes:
        loss: difference relative to the loss.
        gradients: the largest difference of a gradient, as `onnx_cbp.training.compare` measures it.
        flips: ReLU inputs that are positive in one graph only.
        flip_size: the largest of those inputs' magnitudes.
    """

    loss: float
    gradients: float
    flips: int
    flip_size: float


def steps(original: Trainer, rewritten: Trainer, batches: list) -> list[Step]:
    """Train the original; let the rewritten graph take each step from the original's state.

    Both graphs have their ReLUs' inputs among their outputs. Where an input is within rounding of zero, a ReLU may
    pass in one graph and not in the other, and one such element moves a gradient by up to some percent: not an error
    of either graph, and told apart here.
    """
    result = []
    for batch in batches:
        rewritten.set_values(original.values())
        ours, theirs = _outputs(rewritten, batch), _outputs(original, batch)
        loss = abs(float(ours[0]) - float(theirs[0])) / abs(float(theirs[0]))
        flips, size = 0, 0.0
        for got, want in zip(ours[1:], theirs[1:], strict=True):
            flipped = (got > 0) != (want > 0)
            flips += int(flipped.sum())
            size = max(size, float(np.abs(np.stack([got, want]))[:, flipped].max(initial=0.0)))
        differences = gradient_differences(original.gradients(), rewritten.gradients())
        result.append(Step(loss, max(differences.values()), flips, size))
        original.optimizer.step()
    return result


def _outputs(trained: Trainer, batch) -> list[np.ndarray]:
    trained.module.train()
    trained.module.lazy_reset_grad()
    outputs = trained.module(*batch)
    return [np.asarray(v) for v in (outputs if isinstance(outputs, tuple) else (outputs,))]
