"""The contents of a checkpoint, whatever file it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: What a user may keep in a checkpoint, next to the state of training.
Property = int | float | str


@dataclass
class OptimizerState:
    """The state of an optimiser between steps.

    Attributes:
        step: how many steps it has taken.
        learning_rate: that of its next step; None if the file does not say it.
        slots: arrays of each parameter's type and shape, by slot and then by parameter. Slots have ONNX Runtime's
            names, "momentum0" and "momentum1".
        kind: the optimiser's name; None if the file does not say it.
    """

    step: int
    learning_rate: float | None
    slots: dict[str, dict[str, np.ndarray]]
    kind: str | None = None


@dataclass
class Checkpoint:
    """The state of a training.

    Attributes:
        parameters: every parameter by name: trained, frozen, and running statistics.
        trained: the names of those that have a gradient, in order.
        nominal: whether only the shapes are known: then `parameters` holds zeros.
        optimizer: None if it was not saved.
        properties: a user's own values.
        random_state: the state of the random generator for the next step; None if the file does not say it.
    """

    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    trained: tuple[str, ...] = ()
    nominal: bool = False
    optimizer: OptimizerState | None = None
    properties: dict[str, Property] = field(default_factory=dict)
    random_state: int | None = None
