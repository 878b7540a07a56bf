"""Training on any onnxruntime in tests: small networks in text, their artifacts, and trainers of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_cbp.training import generate_artifacts
from onnx_cbp.training.api import CheckpointState, Module, Optimizer
from support.models import parse

#: Two layers; the names are those of `weights`.
PERCEPTRON = """
<ir_version: 8, opset_import: ["" : OPSET]>
perceptron (float[N, 5] x) => (float[N, 3] logits)
{
    hidden = Gemm (x, w1, b1)  positive = Relu (hidden)  logits = Gemm (positive, w2, b2)
}"""


#: The perceptron with a Dropout in the place of its Relu.
DROPOUT = """
<ir_version: 8, opset_import: ["" : OPSET]>
dropped (float[N, 5] x) => (float[N, 3] logits)
{
    hidden = Gemm (x, w1, b1)
    ratio = Constant <value_float: float = 0.4> ()
    train = Constant <value: tensor = bool {1}> ()
    kept = Dropout (hidden, ratio, train)
    logits = Gemm (kept, w2, b2)
}"""

#: Two layers and two batch norms, one of which a Relu follows; the names are those of `normalised_weights`.
NORMALISED = """
<ir_version: 8, opset_import: ["" : OPSET]>
normalised (float[N, 5] x) => (float[N, 3] logits)
{
    hidden = Gemm (x, w1)
    normal, bn1_mean, bn1_var = BatchNormalization <training_mode: int = 1, epsilon: float = 0.001>
        (hidden, scale1, bias1, mean1, var1)
    positive = Relu (normal)
    scores = Gemm (positive, w2, b2)
    logits, bn2_mean, bn2_var = BatchNormalization <training_mode: int = 1, momentum: float = 0.8>
        (scores, scale2, bias2, mean2, var2)
}"""


def normalised_weights(seed: int) -> dict[str, np.ndarray]:
    """Values for the parameters of `NORMALISED`."""
    rng = np.random.default_rng(seed)
    values = {name: value for name, value in weights(seed).items() if name != "b1"}
    for number, channels in ((1, 7), (2, 3)):
        vectors = rng.standard_normal((3, channels)).astype(np.float32)
        values |= {f"{n}{number}": v for n, v in zip(("scale", "bias", "mean"), vectors, strict=True)}
        values[f"var{number}"] = rng.uniform(0.5, 2, channels).astype(np.float32)
    return values


def weights(seed: int) -> dict[str, np.ndarray]:
    """Values for the parameters of `PERCEPTRON`."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (5, 7), "b1": (7,), "w2": (7, 3), "b2": (3,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def network(text: str, values: Mapping[str, np.ndarray], opset: int = 17) -> onnx.ModelProto:
    """A forward graph of text, with values for its initializers."""
    arguments = ", ".join(f"{_type(array)} {name}" for name, array in values.items())
    head, _, body = text.replace("OPSET", str(opset)).partition("{")
    model = parse_unchecked(f"{head.rstrip()} <{arguments}>\n{{{body}")
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    kept = [value for value in model.graph.input if value.name not in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    known = [value for value in model.graph.value_info if value.name not in values]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)
    onnx.checker.check_model(model)
    return model


def _type(array: np.ndarray) -> str:
    kind = {"float32": "float", "float64": "double"}.get(str(array.dtype), str(array.dtype))
    return f"{kind}[{', '.join(map(str, array.shape))}]"


def parse_unchecked(text: str) -> onnx.ModelProto:
    """A model from text."""
    return onnx.parser.parse_model(text)


class Training:
    """Artifacts of our builder, and what trains with them.

    Attributes:
        folder: where the files are.
        state, module, optimizer: as the API has them; no optimiser where none was asked for.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path, **arguments: Any) -> None:
        folder.mkdir(exist_ok=True)
        arguments.setdefault("loss", "CrossEntropyLoss")
        arguments.setdefault("optimizer", "AdamW")
        generate_artifacts(model, artifact_directory=folder, builder="onnx_cbp", **arguments)
        self.folder = folder
        self.load(folder / "checkpoint")

    @classmethod
    def at(cls, folder: Path) -> Training:
        """Train with files that are there."""
        trained = cls.__new__(cls)
        trained.folder = folder
        trained.load(folder / "checkpoint")
        return trained

    def load(self, checkpoint: Path) -> None:
        """Begin at a checkpoint."""
        self.state = CheckpointState.load_checkpoint(checkpoint)
        self.module = Module(self.folder / "training_model.onnx", self.state, self.folder / "eval_model.onnx")
        path = self.folder / "optimizer_model.onnx"
        self.optimizer = Optimizer(path, self.module) if path.exists() else None

    def gradients(self, *batch: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The loss and the gradients of one batch; the parameters stay."""
        self.module.lazy_reset_grad()
        result = self.module(*batch)
        loss = result[0] if isinstance(result, tuple) else result
        return float(loss), {n: np.array(p.grad) for n, p in self.state.parameters if p.requires_grad}

    def step(self, *batch: np.ndarray) -> float:
        """One step of training."""
        loss = self.module(*batch)
        assert self.optimizer is not None
        self.optimizer.step()
        self.module.lazy_reset_grad()
        return np.asarray(loss[0] if isinstance(loss, tuple) else loss).item()

    def values(self) -> dict[str, np.ndarray]:
        """Copies of all parameters."""
        return {name: np.array(parameter.data) for name, parameter in self.state.parameters}


def batches(number: int, seed: int, size: int = 6, classes: int = 3, features: int = 5) -> list[tuple]:
    """Batches for `PERCEPTRON`."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((size, features)).astype(np.float32), rng.integers(0, classes, size))
        for _ in range(number)
    ]


def slopes(function: Any, values: Mapping[str, np.ndarray], step: float = 1e-6) -> dict[str, np.ndarray]:
    """Gradients of a function of float64 arrays by central differences."""
    values = {name: np.array(value, np.float64) for name, value in values.items()}
    result = {}
    for name, value in values.items():
        gradient = np.zeros_like(value)
        for index in np.ndindex(*value.shape):
            kept = value[index]
            value[index] = kept + step
            above = function(values)
            value[index] = kept - step
            gradient[index] = (above - function(values)) / (2 * step)
            value[index] = kept
        result[name] = gradient
    return result


__all__ = ["PERCEPTRON", "Training", "batches", "network", "parse", "slopes", "weights"]
