"""The contents of a checkpoint, whatever file it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: What a user may keep in a checkpoint beside the state of training.
Property = int | float | str


@dataclass
class OptimizerState:
    """What an optimiser remembers between steps.

    Attributes:
        step: how many steps it has taken.
        learning_rate: that of its next step; None where the file does not say it.
        slots: arrays of each parameter's type and shape, by slot and then by parameter. Slots are called as ONNX
            Runtime calls them, "momentum0" and "momentum1".
        kind: the optimiser's name; None where the file does not say it.
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
        nominal: the shapes are known and the values are not: `parameters` holds zeros.
        optimizer: None where it was not saved.
        properties: what the user has kept in it.
        random_state: what the next step draws its random numbers from; None where the file does not say it.
    """

    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    trained: tuple[str, ...] = ()
    nominal: bool = False
    optimizer: OptimizerState | None = None
    properties: dict[str, Property] = field(default_factory=dict)
    random_state: int | None = None
