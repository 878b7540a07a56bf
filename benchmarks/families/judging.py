"""Whether a step is PyTorch's: in double, where nothing but the rules can differ, and in float, beside its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from constants import ConstantsAsFloats
from same_decisions import Decisions

Gradients = Mapping[str, np.ndarray]
#: In double: constants of a graph are floats, of 24 bits, and so is an epsilon.
EXACT = 1e-6
#: In float: of the largest of a tensor; of the loss.
LIMIT, LIMIT_OF_LOSS = 1e-5, 1e-6
#: Further steps in PyTorch's float32, from images of which half of the elements differ by their last bit.
_DRAWS, _HALF = 12, 0.5
#: A gradient is zero in exact arithmetic where it is less of the largest of all.
_ZERO = 1e-9


@dataclass
class Judged:
    """How far one step is from float64's.

    Attributes:
        loss: its relative error.
        worst: the largest error of a gradient, relative to its tensor's largest.
        wrong: what is beyond its limit.
        beyond: gradients that are farther off than they may be, unless a decision was taken otherwise, and how far.
    """

    loss: float
    worst: float
    wrong: list[str] = field(default_factory=list)
    beyond: dict[str, str] = field(default_factory=dict)


class Step:
    """One step of a network by PyTorch, from the same state each time."""

    def __init__(self, net: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> None:
        self._net, self._x, self._labels = net, x, labels
        self.loss, self.gradients = _step(copy.deepcopy(net).double(), x.double(), labels)
        largest = max(np.abs(gradient).max() for gradient in self.gradients.values())
        self._scales = {}
        for name, gradient in self.gradients.items():
            own = np.abs(gradient).max()
            self._scales[name] = largest if own < _ZERO * largest else own
        self._ways = [self._errors(*_step(*way)) for way in self._orders()]

    def judge_exact(self, loss: float, gradients: Gradients) -> Judged:
        """Hold a step in double against `EXACT`, and where it is beyond, beside PyTorch with constants as floats."""
        off, errors = self._errors(loss, gradients)
        result = Judged(off, max(errors.values()))
        if not max(off, result.worst) <= EXACT:
            with ConstantsAsFloats():
                reference = _step(copy.deepcopy(self._net).double(), self._x.double(), self._labels)
            off, errors = self._errors(loss, gradients, reference)
        result.wrong = [f"{name} {error:.1e} in double" for name, error in errors.items() if not error <= EXACT]
        if not off <= EXACT:
            result.wrong.append(f"loss {off:.1e} in double")
        return result

    def judge_single(self, loss: float, gradients: Gradients) -> Judged:
        """Hold a step in float against `LIMIT`, and where it is beyond, against PyTorch's own float32.

        That is computed in three orders of the same sums.
        """
        off, errors = self._errors(loss, gradients)
        result = Judged(off, max(errors.values()))
        for name, error in errors.items():
            if not error <= max(LIMIT, self._of_torch(name)):
                result.beyond[name] = f"{error:.1e} (PyTorch's float32 {self._of_torch(name):.1e})"
        if not off <= max(LIMIT_OF_LOSS, self._of_torch(None)):
            result.wrong.append(f"loss {off:.1e} (PyTorch's float32 {self._of_torch(None):.1e})")
        return result

    def judge_decided(
        self, names: Iterable[str], gradients: Gradients, exact: Gradients
    ) -> dict[str, tuple[float, float]]:
        """Errors of gradients in float beside those in double of the same decisions: these, and PyTorch's worst.

        Where a ReLU's input is within rounding of zero, or two elements of a pool are, one rounding turns a sample
        over. No order of the sums is the right one then, and each has others that it turns over; what is left where
        they are the same is rounding alone.
        """
        ours = {name: self._error(name, gradients[name], exact[name]) for name in names}
        theirs = dict.fromkeys(ours, 0.0)
        for net, x, labels in self._orders():
            decisions = Decisions()
            with decisions.noted():
                _, single = _step(net, x, labels)
            with decisions.repeated():
                _, double = _step(copy.deepcopy(net).double(), x.double(), labels)
            theirs = {n: max(error, self._error(n, single[n], double[n])) for n, error in theirs.items()}
        return {name: (error, theirs[name]) for name, error in ours.items()}

    def farther_than_any_draw(self, names: Iterable[str], gradients: Gradients) -> list[str]:
        """Gradients that are farther off than PyTorch's float32 in every one of many orders of the same samples."""
        _, errors = self._errors(0.0, gradients)
        left = list(names)
        generator = torch.Generator().manual_seed(len(self._scales))
        for _ in range(_DRAWS):
            if not left:
                break
            order = torch.randperm(len(self._x), generator=generator)
            up = torch.rand(self._x.shape, generator=generator) < _HALF
            x = torch.where(up, torch.nextafter(self._x, torch.tensor(float("inf"))), self._x)
            self._ways.append(self._errors(*_step(copy.deepcopy(self._net), x[order], self._labels[order])))
            left = [name for name in left if errors[name] > self._of_torch(name)]
        return left

    def worst_of_torch(self) -> float:
        """The largest error of a gradient in PyTorch's float32, in any order."""
        return max(max(errors.values()) for _, errors in self._ways)

    def _of_torch(self, name: str | None) -> float:
        return max(off if name is None else errors[name] for off, errors in self._ways)

    def _errors(
        self, loss: float, gradients: Gradients, reference: tuple[float, Gradients] | None = None
    ) -> tuple[float, dict[str, float]]:
        true_loss, true = reference or (self.loss, self.gradients)
        errors = {name: self._error(name, gradients[name], true[name]) for name in true.keys() & gradients.keys()}
        return abs(loss - true_loss) / abs(true_loss), errors

    def _error(self, name: str, gradient: np.ndarray, want: np.ndarray) -> float:
        return float(np.abs(gradient - want).max() / self._scales[name])

    def _orders(self) -> Iterator[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]]:
        """What is the same step in exact arithmetic."""
        net, x, labels = self._net, self._x, self._labels
        yield copy.deepcopy(net), x, labels
        yield copy.deepcopy(net).to(memory_format=torch.channels_last), x, labels
        yield copy.deepcopy(net), x.flip(0), labels.flip(0)


def _step(net: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> tuple[float, Gradients]:
    """The loss and the gradients."""
    net.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(x), labels)
    loss.backward()
    return loss.item(), {n: p.grad.double().numpy() for n, p in net.named_parameters() if p.grad is not None}
