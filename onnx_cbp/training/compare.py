"""Two training graphs of one network, compared step by step from the same states.

Free-running, two right implementations drift apart: rounding is amplified from step to step. So each step of the
second graph starts from the state that the first one had, and what is compared is one step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_cbp.training.runtime import load_api

Batch = Sequence[np.ndarray]


@dataclass(frozen=True)
class Artifacts:
    """Where the files of a network's training artifacts are.

    Attributes:
        training_model: the training graph.
        checkpoint: the parameters that training starts from.
        optimizer_model: the optimiser's graph.
        eval_model: the evaluation graph, if it is wanted.
    """

    training_model: Path
    checkpoint: Path
    optimizer_model: Path
    eval_model: Path | None = None

    @classmethod
    def in_folder(cls, folder: str | os.PathLike[str]) -> Artifacts:
        """The artifacts in a folder, under the names that ONNX Runtime's generate_artifacts gives them."""
        base = Path(folder)
        return cls(
            base / "training_model.onnx", base / "checkpoint", base / "optimizer_model.onnx", base / "eval_model.onnx"
        )


@dataclass
class Trainer:
    """A training graph with its state and its optimiser.

    Attributes:
        state: the CheckpointState.
        module: the training Module.
        optimizer: the Optimizer.
    """

    state: Any
    module: Any
    optimizer: Any

    @classmethod
    def load(cls, artifacts: Artifacts, session_options: Any = None) -> Trainer:
        """Load a training graph from its artifacts."""
        api = load_api()
        state = api.CheckpointState.load_checkpoint(str(artifacts.checkpoint))
        eval_model = None if artifacts.eval_model is None else str(artifacts.eval_model)
        module = api.Module(str(artifacts.training_model), state, eval_model, session_options=session_options)
        return cls(state, module, api.Optimizer(str(artifacts.optimizer_model), module))

    def forward_backward(self, batch: Batch) -> float:
        """Run the training graph on a batch; gradients replace those of the batch before. Returns the loss."""
        self.module.train()
        self.module.lazy_reset_grad()
        result = self.module(*batch)
        return float(result[0] if isinstance(result, tuple) else result)

    def step(self, batch: Batch) -> float:
        """One step of training; returns the loss before it."""
        loss = self.forward_backward(batch)
        self.optimizer.step()
        return loss

    def values(self) -> dict[str, np.ndarray]:
        """A copy of every parameter, running statistics among them."""
        return {name: np.array(parameter.data) for name, parameter in self.state.parameters}

    def set_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Set parameters."""
        for name, value in values.items():
            self.state.parameters[name].data = value

    def gradients(self) -> dict[str, np.ndarray]:
        """A copy of every trained parameter's gradient."""
        return {
            name: np.array(parameter.grad) for name, parameter in self.state.parameters if parameter.requires_grad
        }


@dataclass
class StepDifferences:
    """The largest differences of one step over all steps compared.

    Attributes:
        loss: relative to the loss.
        gradients: by parameter, relative to the tensor's largest gradient, or to `negligible` of the largest of all
            gradients where that is more: a gradient that is zero in exact arithmetic, such as that of a bias before a
            batch norm, is rounding and nothing else.
        statistics: by running statistic, relative to its largest value.
        steps: number of steps compared.
    """

    loss: float
    gradients: dict[str, float]
    statistics: dict[str, float]
    steps: int

    @property
    def largest_gradient(self) -> float:
        """The largest of the gradients' differences."""
        return max(self.gradients.values(), default=0.0)

    @property
    def largest_statistic(self) -> float:
        """The largest of the running statistics' differences."""
        return max(self.statistics.values(), default=0.0)


def compare_steps(
    original: Trainer, other: Trainer, batches: Iterable[Batch], *, negligible: float = 1e-3
) -> StepDifferences:
    """Train the original; before each of its steps, let the other take the same step from the same state.

    Args:
        original: trained on every batch.
        other: set to the original's parameters before each step; its optimiser is not used.
        batches: inputs of the training graph, labels last.
        negligible: a tensor whose largest gradient is below this part of the largest of all is held against that.

    Returns:
        The largest differences over the steps.
    """
    result = StepDifferences(0.0, {}, {}, 0)
    for batch in batches:
        before = original.values()
        other.set_values(before)
        other_loss = other.forward_backward(batch)
        loss = original.forward_backward(batch)
        result.steps += 1
        result.loss = max(result.loss, abs(other_loss - loss) / max(abs(loss), 1e-12))
        _keep_largest(result.gradients, original.gradients(), other.gradients(), negligible)
        after, other_after = original.values(), other.values()
        written = {name: value for name, value in after.items() if not np.array_equal(value, before[name])}
        _keep_largest(result.statistics, written, {name: other_after[name] for name in written}, 0.0)
        original.optimizer.step()
    return result


def _keep_largest(
    largest: dict[str, float], want: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], negligible: float
) -> None:
    of_all = max((float(np.abs(value).max(initial=0.0)) for value in want.values()), default=0.0)
    for name, value in want.items():
        size = max(float(np.abs(value).max(initial=0.0)), negligible * of_all, 1e-30)
        difference = float(np.abs(got[name] - value).max(initial=0.0)) / size
        # A NaN is a difference too, and the largest there is.
        largest[name] = max(largest.get(name, 0.0), difference if np.isfinite(difference) else np.inf)
