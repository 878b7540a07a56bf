"""The metadata of a training or evaluation graph: which values are parameters, gradients and state.

    data, labels, parameters by their names, random_state
    -> loss, other outputs, "<parameter>_grad" for each that trains, "<statistic>_updated", random_state_updated

Every runtime runs such a graph as it is. What is what is text in the model's metadata, so that no pass needs to guess.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

METADATA = "onnx_cbp.training"
#: On a node whose first input passes through at inference: its random mask is no part of the network.
RANDOM_MASK = "onnx_cbp.random_mask"
_VERSION = 1


@dataclass
class TrainingGraph:
    """The roles of a training graph's inputs and outputs, by their names.

    Attributes:
        loss: the output that is the loss.
        gradients: of each parameter that trains, the output that is its gradient; in the order of the inputs. An
            evaluation graph has none, and all its parameters are `frozen`.
        frozen: parameters that do not train, running statistics among them.
        updates: of each input that a step changes, the output that is its next value: running statistics, and the
            random state.
        random_state: the input that random numbers are drawn from; None where there is none.
        scores: what the loss judges, which is a network's result at inference; none where that is not known.
    """

    loss: str
    gradients: dict[str, str] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    updates: dict[str, str] = field(default_factory=dict)
    random_state: str | None = None
    scores: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> list[str]:
        """All parameters, those that train first."""
        return [*self.gradients, *self.frozen]

    @classmethod
    def of(cls, model: ir.Model) -> TrainingGraph | None:
        """What a model says of itself; None of one that is no training graph of ours."""
        text = model.metadata_props.get(METADATA)
        if text is None:
            return None
        about: dict[str, Any] = json.loads(text)
        about.pop("version")
        return cls(**about)

    def write(self, model: ir.Model) -> None:
        """Let the model say it."""
        model.metadata_props[METADATA] = json.dumps({"version": _VERSION, **asdict(self)})
