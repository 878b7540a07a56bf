"""Losses, each written in ONNX's own ops: a sum over the batch, and what it is divided by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.differentiating.builder import Builder

Shape = tuple[int | str | None, ...]
_REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class Loss(ABC):
    """What all losses have.

    Attributes:
        reduction: "mean", over what counts, or "sum".
    """

    reduction: str = "mean"

    #: What the input for the right answers is called.
    target: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        if self.reduction not in _REDUCTIONS:
            raise OnnxCbpError(f"reduction is {self.reduction!r}; it must be 'mean' or 'sum'")

    def target_type(self, g: Builder, scores: ir.Value) -> tuple[ir.DataType, Shape]:
        """Type and shape of the right answers to these scores."""
        return g.dtype(scores), g.shape(scores)

    @abstractmethod
    def terms(self, g: Builder, scores: ir.Value, target: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The sum of the loss over the batch, and what a mean divides it by; both scalars of the scores' type.

        Raises:
            OnnxCbpError: scores of this type or shape have no such loss.
        """


@dataclass(frozen=True)
class CrossEntropyLoss(Loss):
    """`torch.nn.CrossEntropyLoss` of scores [N, classes, ...] and the numbers of the right classes, int64 [N, ...].

    Attributes:
        weight: of each class; a mean is divided by the sum of those of the labels.
        ignore_index: labels of this number do not count.
        label_smoothing: the part of a label that is spread over all classes.

    A label that is no class is an error of the session that meets it, unless it is `ignore_index`.
    """

    weight: Sequence[float] | np.ndarray | None = None
    ignore_index: int | None = None
    label_smoothing: float = 0.0

    target: ClassVar[str] = "labels"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ignore_index is not None and not _is_int64(self.ignore_index):
            raise OnnxCbpError(f"ignore_index is {self.ignore_index!r}; it must be a number of type int64")
        if not 0 <= self.label_smoothing <= 1:
            raise OnnxCbpError(f"label_smoothing is {self.label_smoothing!r}; it must be from 0 to 1")

    def target_type(self, g: Builder, scores: ir.Value) -> tuple[ir.DataType, Shape]:
        """Type and shape of the labels."""
        shape = g.shape(scores)
        if len(shape) < 2:
            raise OnnxCbpError(f"'{scores.name}' has shape {list(shape)}: a cross entropy needs [N, classes, ...]")
        return ir.DataType.INT64, (shape[0], *shape[2:])

    def terms(self, g: Builder, scores: ir.Value, target: ir.Value) -> tuple[ir.Value, ir.Value]:
        """See the class."""
        classes = g.shape(scores)[1]
        if not isinstance(classes, int):
            raise OnnxCbpError(
                f"'{scores.name}' has shape {list(g.shape(scores))}: the number of classes must be fixed"
            )
        weight = self._weight(g, classes, scores)
        dtype = g.dtype(scores).value
        # Of the labels' own type: a number of another would be one that no label has.
        zero, beyond = (g.constant(np.array(each), g.dtype(target)) for each in (0, classes))
        labels, counted = target, None
        if self.ignore_index is not None:
            counted = g.Not(g.Equal(labels, g.constant(np.array(self.ignore_index), g.dtype(target))))
            labels = g.Where(counted, labels, zero)
        # Gather takes negative indices from the end, which no label means.
        labels = g.Where(g.Less(labels, zero), beyond, labels)
        own = g.Gather(g.constant(weight, g.dtype(scores)), labels, axis=0)
        if counted is not None:
            own = g.Mul(own, g.Cast(counted, to=dtype))
        log_p = g.LogSoftmax(scores, axis=1, like=scores)
        # Not OneHot, of which ONNX Runtime has no kernel for double, and not on every provider.
        numbers = np.arange(classes).reshape(1, classes, *[1] * (g.rank(scores) - 2))
        is_label = g.Equal(g.Unsqueeze(labels, [1]), g.constant(numbers, g.dtype(target)))
        if counted is not None:
            is_label = g.And(is_label, g.Unsqueeze(counted, [1]))
        # Not a product: a class that is masked with a score of -inf, and that no label means, would be 0 * -inf.
        nothing = g.scalar(0, scores)
        picked = g.reduce("ReduceSum", g.Where(is_label, log_p, nothing, like=scores), [1], keepdims=0)
        smooth = self.label_smoothing
        loss = g.Mul(g.Mul(picked, own), -(1 - smooth))
        if smooth:
            spread = weight.reshape(1, classes, *[1] * (g.rank(scores) - 2)) * (-smooth / classes)
            every = g.reduce("ReduceSum", g.Mul(log_p, g.constant(spread, g.dtype(scores))), [1], keepdims=0)
            loss = g.Add(loss, every if counted is None else g.Where(counted, every, nothing))
        return _sum(g, loss), _sum(g, own)

    def _weight(self, g: Builder, classes: int, scores: ir.Value) -> np.ndarray:
        weight = np.ones(classes) if self.weight is None else np.asarray(self.weight)
        if weight.shape != (classes,):
            raise OnnxCbpError(
                f"weight has shape {list(weight.shape)}; '{scores.name}' has {classes} classes: give [{classes}]"
            )
        return weight.astype(g.dtype(scores).numpy())


@dataclass(frozen=True)
class MSELoss(Loss):
    """The mean, or the sum, of (scores - target)^2."""

    def terms(self, g: Builder, scores: ir.Value, target: ir.Value) -> tuple[ir.Value, ir.Value]:
        """See the class."""
        difference = g.Sub(scores, target)
        return _sum(g, g.Mul(difference, difference)), _number(g, scores)


@dataclass(frozen=True)
class L1Loss(Loss):
    """The mean, or the sum, of |scores - target|."""

    def terms(self, g: Builder, scores: ir.Value, target: ir.Value) -> tuple[ir.Value, ir.Value]:
        """See the class."""
        return _sum(g, g.Abs(g.Sub(scores, target))), _number(g, scores)


@dataclass(frozen=True)
class BCEWithLogitsLoss(Loss):
    """`torch.nn.BCEWithLogitsLoss`: cross entropy of Sigmoid(scores) and targets from 0 to 1, by the scores themselves.

    Attributes:
        weight: factors of the elements' losses, broadcast to their shape.
        pos_weight: factors of what targets of 1 add, broadcast as well.
    """

    weight: Sequence[float] | np.ndarray | None = None
    pos_weight: Sequence[float] | np.ndarray | None = None

    def terms(self, g: Builder, scores: ir.Value, target: ir.Value) -> tuple[ir.Value, ir.Value]:
        """See the class."""
        dtype = g.dtype(scores)
        # -log(sigmoid(x)) = softplus(-x) = softplus(x) - x
        loss = g.Sub(_softplus(g, scores), g.Mul(scores, target))
        if self.pos_weight is not None:
            more = g.Mul(target, g.constant(_factors(g, scores, "pos_weight", self.pos_weight) - 1, dtype))
            loss = g.Add(loss, g.Mul(more, _softplus(g, g.Neg(scores))))
        if self.weight is not None:
            loss = g.Mul(loss, g.constant(_factors(g, scores, "weight", self.weight), dtype))
        return _sum(g, loss), _number(g, scores)


#: By the names of ONNX Runtime's `LossType`.
BY_NAME: dict[str, type[Loss]] = {
    "CrossEntropyLoss": CrossEntropyLoss,
    "MSELoss": MSELoss,
    "BCEWithLogitsLoss": BCEWithLogitsLoss,
    "L1Loss": L1Loss,
}


def _factors(g: Builder, scores: ir.Value, name: str, given: Sequence[float] | np.ndarray) -> np.ndarray:
    """Factors of the elements' losses, of a shape that broadcasts to that of the scores and makes no more of them."""
    factors, shape = np.asarray(given, g.dtype(scores).numpy()), g.shape(scores)
    fits = factors.ndim <= len(shape) and all(
        size == 1 or size == of or not isinstance(of, int)
        for size, of in zip(factors.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise OnnxCbpError(
            f"{name} has shape {list(factors.shape)}, which does not broadcast to that of '{scores.name}', "
            f"{list(shape)}"
        )
    return factors


def _is_int64(value: object) -> bool:
    limits = np.iinfo(np.int64)
    return isinstance(value, int | np.integer) and limits.min <= int(value) <= limits.max


def _sum(g: Builder, value: ir.Value) -> ir.Value:
    return g.reduce("ReduceSum", value, list(range(g.rank(value))), keepdims=0) if g.rank(value) else value


def _softplus(g: Builder, x: ir.Value) -> ir.Value:
    """log(1 + exp(x)); ONNX Runtime has a Softplus of float alone."""
    if g.dtype(x) == ir.DataType.FLOAT:
        return g.Softplus(x)
    return g.Add(g.Relu(x), g.Log(g.Add(g.Exp(g.Neg(g.Abs(x))), 1.0)))


def _number(g: Builder, value: ir.Value) -> ir.Value:
    """How many elements a value has."""
    return g.Cast(g.Size(value), to=g.dtype(value).value)
