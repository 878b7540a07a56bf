"""Compares two training graphs of one network step by step, each step from the same state.

If they run freely, even two right implementations drift apart, since each step amplifies rounding. So each step of the
second graph starts from the state of the first one, and single steps are compared.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.training import api as own_api
from onnx_cbp.training.runtime import api_of, load_api

#: The inputs of a training graph in order, the labels last, in the graph's own types and shapes.
Batch = Sequence[np.ndarray]


@dataclass(frozen=True)
class Artifacts:
    """Where the files of a network's training artifacts are.

    Attributes:
        training_model: the training graph.
        checkpoint: the parameters that training starts from.
        optimizer_model: the optimiser's graph, if it is wanted.
        eval_model: the evaluation graph, if it is wanted.
    """

    training_model: Path
    checkpoint: Path
    optimizer_model: Path | None
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
    """A training graph with its state and its optimiser: ours on any onnxruntime, ONNX Runtime's on its training build.

    Attributes:
        state: the CheckpointState.
        module: the training Module.
        optimizer: the Optimizer; None if there is none: then a step does not change the parameters.
    """

    state: Any
    module: Any
    optimizer: Any

    @classmethod
    def load(cls, artifacts: Artifacts, session_options: Any = None) -> Trainer:
        """Load a training graph from its artifacts.

        Args:
            artifacts: the files; each trainer has a state of its own, also from the same checkpoint.
            session_options: an `onnxruntime.SessionOptions`, with the ops registered if ONNX Runtime's graph has any.

        Raises:
            OnnxCbpError: one line: no training build of onnxruntime for a graph of its builder's, or a file that is not
                there or does not load.
        """
        eval_model = None if artifacts.eval_model is None else str(artifacts.eval_model)
        for file in (artifacts.checkpoint, artifacts.training_model, artifacts.optimizer_model, artifacts.eval_model):
            # ONNX Runtime names neither the file nor what is wrong with it.
            if file is not None and not file.is_file():
                raise OnnxCbpError(f"'{file}' {'is a folder' if file.is_dir() else 'does not exist'}")
        api = api_of(artifacts.training_model)
        with _naming(artifacts.checkpoint):
            state = api.CheckpointState.load_checkpoint(str(artifacts.checkpoint))
        with _naming(artifacts.training_model, artifacts.eval_model):  # one call loads both
            module = api.Module(str(artifacts.training_model), state, eval_model, session_options=session_options)
        trainer = cls(state, module, None)
        if artifacts.optimizer_model is not None:
            trainer.load_optimizer(artifacts.optimizer_model)
        return trainer

    def load_optimizer(self, optimizer_model: Path) -> None:
        """Load the optimiser's graph, with the session options that the module was given.

        Raises:
            OnnxCbpError: one line: the file does not load.
        """
        with _naming(optimizer_model):
            api = own_api if isinstance(self.module, own_api.Module) else load_api()
            self.optimizer = api.Optimizer(str(optimizer_model), self.module)

    def forward_backward(self, batch: Batch) -> float:
        """Run the training graph on a batch; gradients replace those of the batch before.

        Returns:
            The loss, which is the graph's first output. Running statistics are updated, parameters are not.
        """
        self.module.train()
        self.module.lazy_reset_grad()
        result = self.module(*batch)
        return float(result[0] if isinstance(result, tuple) else result)

    def step(self, batch: Batch) -> float:
        """One step of training; returns the loss before it."""
        loss = self.forward_backward(batch)
        if self.optimizer is not None:
            self.optimizer.step()
        return loss

    def values(self) -> dict[str, np.ndarray]:
        """A copy of every parameter by name, running statistics among them, in their own types and shapes."""
        return {name: np.array(parameter.data) for name, parameter in self.state.parameters}

    def set_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Set parameters by name; the arrays have the parameters' types and shapes, and are copied."""
        for name, value in values.items():
            self.state.parameters[name].data = value

    def gradients(self) -> dict[str, np.ndarray]:
        """A copy of every trained parameter's gradient, as the last `forward_backward` left it."""
        return {name: np.array(parameter.grad) for name, parameter in self.state.parameters if parameter.requires_grad}


@dataclass
class StepDifferences:
    """The largest differences of one step over all steps compared.

    Attributes:
        loss: relative to the loss.
        gradients: by parameter, relative to the tensor's largest gradient. If that is below `negligible` of the largest
            of all, relative to the latter: gradients that are zero in exact arithmetic, such as that of a bias before a
            batch norm, are only rounding.
        statistics: by running statistic, relative to its largest value; also by any other value that a graph writes
            before the optimiser does.
        by_step: for each step, the largest difference of a gradient. A ReLU whose input is within rounding of zero may
            pass in one graph and not in the other. Such a step differs by orders of magnitude more, just as the
            original differs from itself when its weights are moved by one ulp.
    """

    loss: float = 0.0
    gradients: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    by_step: list[float] = field(default_factory=list)

    @property
    def largest_gradient(self) -> float:
        """The largest of the gradients' differences."""
        return max(self.gradients.values(), default=0.0)

    @property
    def largest_statistic(self) -> float:
        """The largest of the running statistics' differences."""
        return max(self.statistics.values(), default=0.0)


def compare_steps(
    original: Trainer, other: Trainer, batches: Iterable[Batch], *, negligible: float = 1e-5
) -> StepDifferences:
    """Train the original; before each of its steps, let the other take the same step from the same state.

    Args:
        original: trained on every batch.
        other: set to the original's parameters before each step; its optimiser is not used.
        batches: inputs of the training graph, labels last.
        negligible: the part of the largest of all gradients that a tensor's gradient is at least divided by.

    Returns:
        The largest differences over the steps.
    """
    result = StepDifferences()
    for batch in batches:
        before = original.values()
        other.set_values(before)
        other_loss = other.forward_backward(batch)
        loss = original.forward_backward(batch)
        result.loss = max(result.loss, abs(other_loss - loss) / max(abs(loss), 1e-12))
        gradients = gradient_differences(original.gradients(), other.gradients(), negligible)
        result.by_step.append(max(gradients.values(), default=0.0))
        _keep_largest(result.gradients, gradients)
        after, other_after = original.values(), other.values()
        # From both graphs: a graph may neither forget a statistic nor write anything else.
        written = {
            name: value
            for name, value in after.items()
            if not (np.array_equal(value, before[name]) and np.array_equal(other_after[name], before[name]))
        }
        _keep_largest(result.statistics, gradient_differences(written, other_after, negligible))
        original.optimizer.step()
    return result


def gradient_differences(
    want: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], negligible: float = 1e-5
) -> dict[str, float]:
    """The largest difference of each tensor, as `StepDifferences` describes it."""
    of_all = max((float(np.abs(value).max(initial=0.0)) for value in want.values()), default=0.0)
    differences = {}
    for name, value in want.items():
        size = float(np.abs(value).max(initial=0.0))
        if size < negligible * of_all:
            size = of_all
        difference = float(np.abs(got[name] - value).max(initial=0.0)) / max(size, 1e-30)
        # A NaN is a difference too, and the largest there is.
        differences[name] = difference if np.isfinite(difference) else float("inf")
    return differences


@contextlib.contextmanager
def _naming(*files: Path | None) -> Iterator[None]:
    """Name the files in whatever ONNX Runtime raises, in one line; its exceptions have no common class."""
    try:
        yield
    except OnnxCbpError:
        raise
    except Exception as error:
        # What stands before the mark is where in ONNX Runtime's source it happened.
        reason = " ".join(str(error).split("[ONNXRuntimeError] :")[-1].split())
        names = " or ".join(f"'{file}'" for file in files if file is not None)
        raise OnnxCbpError(f"{names} does not load: {reason}") from error


def _keep_largest(largest: dict[str, float], differences: Mapping[str, float]) -> None:
    for name, difference in differences.items():
        largest[name] = max(largest.get(name, 0.0), difference)
