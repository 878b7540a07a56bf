"""The metadata of a training or evaluation graph: which values are parameters, gradients and state.

    data, labels, parameters by their names, random_state
    -> loss, other outputs, "<parameter>_grad" for each that trains, "<statistic>_updated", random_state_updated

Every runtime runs such a graph as it is. The model's metadata say which value is what, so that no pass needs to guess.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError

METADATA = "onnx_cbp.training"
#: Marks a node whose first input passes through at inference: its random mask is not a part of the network.
RANDOM_MASK = "onnx_cbp.random_mask"
_VERSION = 1


@dataclass
class TrainingGraph:
    """The roles of a training graph's inputs and outputs, by their names.

    Attributes:
        loss: the output that is the loss.
        gradients: for each parameter that trains, the output with its gradient; in the order of the inputs. An
            evaluation graph has none, and all its parameters are `frozen`.
        frozen: parameters that do not train, including running statistics.
        updates: for each input that a step changes, the output with its next value: running statistics, and the random
            state.
        random_state: the input for the state of the random generator; None if there is none.
        scores: the values that the loss judges: a network's results at inference; empty if they are not known.
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
        """Read it from a model's metadata; None if the model is no training graph of ours.

        Raises:
            OnnxCbpError: the metadata is nothing that `write` writes.
        """
        text = model.metadata_props.get(METADATA)
        if text is None:
            return None
        try:
            about = json.loads(text)
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict) or about.keys() - {"version"} - _KINDS.keys() or not _is_as_written(about):
            raise OnnxCbpError(
                f"the entry '{METADATA}' of the model's metadata is none of a training graph of ours ({text:.60}): "
                "remove it"
            )
        return cls(**{name: value for name, value in about.items() if name in _KINDS})

    def write(self, model: ir.Model) -> None:
        """Write it to the model's metadata."""
        model.metadata_props[METADATA] = json.dumps({"version": _VERSION, **asdict(self)})


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_pairs(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


#: Whether what is written of each field is of its kind.
_KINDS: dict[str, Callable[[object], bool]] = {
    "loss": lambda value: isinstance(value, str),
    "gradients": _is_pairs,
    "frozen": _is_names,
    "updates": _is_pairs,
    "random_state": lambda value: value is None or isinstance(value, str),
    "scores": _is_names,
}


def _is_as_written(about: dict[str, Any]) -> bool:
    return "loss" in about and all(_KINDS[name](value) for name, value in about.items() if name in _KINDS)
