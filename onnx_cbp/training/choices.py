"""Finds the loss or optimiser that a name, a class or an object stands for."""

from __future__ import annotations

from enum import Enum
from typing import Any

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.training import losses, optimizers
from onnx_cbp.training.losses import Loss
from onnx_cbp.training.optimizers import Optimizer

BUILDERS = ("onnx_cbp", "onnxruntime")


class LossType(Enum):
    """The losses of `onnxruntime.training.artifacts.LossType`."""

    MSELoss = 1
    CrossEntropyLoss = 2
    BCEWithLogitsLoss = 3
    L1Loss = 4


class OptimType(Enum):
    """The optimisers of `onnxruntime.training.artifacts.OptimType`."""

    AdamW = 1
    SGD = 2


def loss_of(choice: Any) -> Loss | str | None:
    """A loss: one of `losses` (an object, its class or its name), the name of a value of the graph, or None.

    Raises:
        OnnxCbpError: it is none of these.
    """
    made = _made(choice, Loss, losses.BY_NAME)
    if made is not None or choice is None:
        return made
    if isinstance(choice, str):
        return choice
    _refuse_block("loss", choice, ", or make the loss a part of the graph and name its output")
    names = ", ".join(losses.BY_NAME)
    raise OnnxCbpError(
        f"loss: {choice!r} is none for builder='onnx_cbp': use {names}, one of onnx_cbp.training.losses, or the name "
        "of an output of the model"
    )


def optimizer_of(choice: Any) -> Optimizer | None:
    """An optimiser: one of `optimizers` (an object, its class or its name), or None.

    Raises:
        OnnxCbpError: it is none of these.
    """
    made = _made(choice, Optimizer, optimizers.BY_NAME)
    if made is None and choice is not None:
        _refuse_block("optimizer", choice, "")
        names = ", ".join(optimizers.BY_NAME)
        raise OnnxCbpError(
            f"optimizer: {choice!r} is none for builder='onnx_cbp': use {names}, or one of onnx_cbp.training.optimizers"
        )
    return made


def builder_of(choice: Any, loss: Any, optimizer: Any, *, has_training_build: bool) -> str:
    """Which builder makes the artifacts.

    By default it is ours if the loss or the optimiser is one of ours, or the training build is not installed.

    Raises:
        OnnxCbpError: there is no such builder, or ONNX Runtime's should build a loss or an optimiser of ours.
    """
    if choice is not None and choice not in BUILDERS:
        raise OnnxCbpError(f"builder: there is no {choice!r}: use {' or '.join(map(repr, BUILDERS))}")
    ours = next((each for each in (loss, optimizer) if _is_ours(each)), None)
    if choice is None:
        return "onnx_cbp" if ours is not None or not has_training_build else "onnxruntime"
    if choice == "onnxruntime" and ours is not None:
        raise OnnxCbpError(f"builder: ONNX Runtime's cannot build {ours!r}: use builder='onnx_cbp'")
    return str(choice)


def named(choice: Any) -> Any:
    """The name of a member of the enumerations above, since ONNX Runtime's builder has its own; others unchanged."""
    return choice.name if isinstance(choice, LossType | OptimType) else choice


def _refuse_block(role: str, choice: Any, otherwise: str) -> None:
    """Raise for a block of ONNX Runtime's builder, which writes its own graph."""
    kind = choice if isinstance(choice, type) else type(choice)
    if kind.__module__.startswith("onnxruntime.training") or any(
        each.__module__.startswith("onnxruntime.training.onnxblock") for each in kind.__mro__
    ):
        raise OnnxCbpError(
            f"{role}: {kind.__name__} is a block of onnxruntime.training, for builder='onnxruntime' alone: use that "
            f"builder, or one of onnx_cbp.training.{'losses' if role == 'loss' else 'optimizers'}{otherwise}"
        )


def _is_ours(choice: Any) -> bool:
    return isinstance(choice, Loss | Optimizer) or (isinstance(choice, type) and issubclass(choice, Loss | Optimizer))


def _made(choice: Any, kind: type, by_name: dict[str, Any]) -> Any:
    if isinstance(choice, kind):
        return choice
    if isinstance(choice, type) and issubclass(choice, kind):
        return choice()
    name = choice.name if isinstance(choice, Enum) else choice
    return by_name[name]() if isinstance(name, str) and name in by_name else None
