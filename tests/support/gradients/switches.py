"""Batches for a training graph, and the nodes of it whose gradients jump with their inputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_cbp.training import Artifacts, Trainer
from onnx_cbp.training.compare import Batch


def batches(artifacts: Artifacts, count: int, seed: int, size: int = 16) -> list[Batch]:
    """Batches for a training graph, the last one smaller, as the last of an epoch is."""
    graph = onnx.load(artifacts.training_model).graph
    (loss,) = (node for node in graph.node if node.op_type == "SoftmaxCrossEntropyLoss")
    logits, labels = loss.input[:2]
    values = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
    classes = _shape(values[logits], size)[1]
    states = {name for name, _ in Trainer.load(artifacts).state.parameters}
    fed = [value for value in graph.input if value.name not in states and not _of_the_api(value.name)]
    assert labels == fed[-1].name, "labels are the last input"
    rng = np.random.default_rng(seed)
    made = []
    for step in range(count):
        n = size - 3 if step == count - 1 else size
        # Heavy tails, so that a ReLU6 also has something to cut off at the top.
        data = [rng.standard_t(3, _shape(value, n)).astype(np.float32) for value in fed[:-1]]
        made.append((*data, rng.integers(0, classes, _shape(fed[-1], n))))
    return made


def _of_the_api(name: str) -> bool:
    """Inputs that the training API feeds itself."""
    return name == "lazy_reset_grad" or name.endswith(".accumulation.buffer")


def _shape(value: onnx.ValueInfoProto, size: int) -> tuple[int, ...]:
    return tuple(d.dim_value if d.HasField("dim_value") else size for d in value.type.tensor_type.shape.dim)


@dataclasses.dataclass(frozen=True)
class Kinks:
    """A Relu or Clip: elements pass its gradient between two bounds, or do not.

    Attributes:
        data: name of its input.
        low: lower bound; at a Relu's own it does not pass, at a Clip's it does, and so at `high`.
        high: upper bound.
        open: whether it is a Relu.
    """

    data: str
    low: float
    high: float
    open: bool

    @property
    def outputs(self) -> list[str]:
        return [self.data]

    def flips(self, got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> np.ndarray:
        """How far from a kink those elements are that pass in one graph only."""
        flipped = self.passes(got[self.data]) != self.passes(want[self.data])
        found = np.stack([got[self.data], want[self.data]])[:, flipped].astype(np.float64)
        distances = [np.abs(found - kink) / max(1.0, abs(kink)) for kink in (self.low, self.high) if np.isfinite(kink)]
        return np.min(distances, axis=0).max(axis=0)

    def passes(self, x: np.ndarray) -> np.ndarray:
        return ((x > self.low) if self.open else (x >= self.low)) & (x <= self.high)


@dataclasses.dataclass(frozen=True)
class Ties:
    """A MaxPool: of two elements as large as each other, either can be the one that gets the gradient.

    Attributes:
        data: name of its input.
        indices: name of its second output, the places of the largest in the whole of the input.
    """

    data: str
    indices: str

    @property
    def outputs(self) -> list[str]:
        return [self.data, self.indices]

    def flips(self, got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> np.ndarray:
        """How far apart the two elements are where each graph has chosen another."""
        ours, theirs = got[self.indices], want[self.indices]
        flipped = ours != theirs
        ours, theirs = ours[flipped], theirs[flipped]
        gaps = [np.abs(of.ravel()[ours] - of.ravel()[theirs]) for of in (got[self.data], want[self.data])]
        return np.max(gaps, axis=0)


def switches(graph: onnx.GraphProto) -> list[Kinks | Ties]:
    """Every node of a training graph whose gradient jumps with its input."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    found: list[Kinks | Ties] = []
    for node in graph.node:
        if node.op_type == "Relu":
            found.append(Kinks(node.input[0], 0.0, np.inf, open=True))
        elif node.op_type == "Clip":
            low, high = (float(constants[name]) for name in node.input[1:])
            found.append(Kinks(node.input[0], low, high, open=False))
        elif node.op_type == "MaxPool":
            found.append(Ties(node.input[0], node.output[1]))
    return found


def with_outputs(artifacts: Artifacts, names: set[str], folder: Path) -> Artifacts:
    """The same training graph with more values among its outputs."""
    model = onnx.load(artifacts.training_model)
    known = {value.name: value for value in model.graph.value_info}
    have = {value.name for value in model.graph.output}
    # The gradient builder gives a MaxPool its second output, and no type.
    untyped = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in names}
    model.graph.output.extend(known.get(name, untyped[name]) for name in sorted(names - have))
    path = folder / "with_outputs.onnx"
    onnx.save(model, path)
    return dataclasses.replace(artifacts, training_model=path)
