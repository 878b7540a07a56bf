"""Optimisers: each is a few lines of arithmetic on flat vectors, in which all parameters are joined.

`optimizer_model` writes one as the graph that `onnx_cbp.training.api.Optimizer` runs:

    parameters, gradients, momentum0, ...: float[P], step: int64[1], learning_rate: float[1]
    -> parameters_next, momentum0_next, ...: float[P], step_next: int64[1]
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.differentiating.builder import Builder

#: Under this key the graph of an optimiser says what it is.
METADATA = "onnx_cbp.optimizer"


@dataclass(frozen=True)
class Scalars:
    """What a step reads beside vectors, as scalars of the graph.

    Attributes:
        rate: the learning rate, in the parameters' type.
        step: how many steps have been taken with this one, as double: powers of 0.999 lose half their digits in float.
        dtype: the parameters' type.
    """

    rate: ir.Value
    step: ir.Value
    dtype: ir.DataType


@dataclass(frozen=True)
class Optimizer(ABC):
    """What all optimisers have.

    Attributes:
        weight_decay: how strongly parameters are drawn to zero; each optimiser says in what way.
        no_decay: patterns of names ("*" matches any text) of parameters without weight decay.
        decay_vectors: False: parameters of rank 0 or 1 have no weight decay, as biases and those of batch norms are.
        max_grad_norm: gradients are scaled so that their norm, over all parameters together, is no larger; None: never.
    """

    weight_decay: float = 0.0
    no_decay: str | Sequence[str] = ()
    decay_vectors: bool = True
    max_grad_norm: float | None = None

    #: The names of the vectors that are kept for each parameter between steps.
    slots: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        _check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _check(self.max_grad_norm is None or self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")

    @abstractmethod
    def update(
        self, g: Builder, p: ir.Value, d: ir.Value, decay: ir.Value | None, memory: Sequence[ir.Value], s: Scalars
    ) -> tuple[ir.Value, ...]:
        """The new parameters and then the new slots.

        Args:
            g: writes the nodes.
            p: the parameters.
            d: their gradients.
            decay: the weight decay, for all or each; None where there is none.
            memory: the slots.
            s: the scalars.
        """


@dataclass(frozen=True)
class SGD(Optimizer):
    """`torch.optim.SGD`: gradient descent, with momentum where it is asked for.

    d += weight_decay * p;  m = momentum * m + d;  p -= rate * m        (with nesterov: d + momentum * m)
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        _check(not self.nesterov or self.momentum > 0, "nesterov", self.nesterov, "False without momentum")
        object.__setattr__(self, "slots", ("momentum0",) if self.momentum else ())

    def update(
        self, g: Builder, p: ir.Value, d: ir.Value, decay: ir.Value | None, memory: Sequence[ir.Value], s: Scalars
    ) -> tuple[ir.Value, ...]:
        """See the class."""
        if decay is not None:
            d = g.Add(d, g.Mul(p, decay))
        if not self.momentum:
            return (g.Sub(p, g.Mul(d, s.rate)),)
        m = g.Add(g.Mul(memory[0], self.momentum), d)
        along = g.Add(d, g.Mul(m, self.momentum)) if self.nesterov else m
        return g.Sub(p, g.Mul(along, s.rate)), m


@dataclass(frozen=True)
class Adam(Optimizer):
    """`torch.optim.Adam`; weight decay is added to the gradients.

    d += weight_decay * p
    m = b1 * m + (1 - b1) * d;  v = b2 * v + (1 - b2) * d^2
    p -= rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    slots: ClassVar[tuple[str, ...]] = ("momentum0", "momentum1")
    _decoupled: ClassVar[bool] = False
    _eps_is_corrected: ClassVar[bool] = True
    _decays_last: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "from 0 to below 1")
        _check(self.eps >= 0, "eps", self.eps, "at least 0")

    def update(
        self, g: Builder, p: ir.Value, d: ir.Value, decay: ir.Value | None, memory: Sequence[ir.Value], s: Scalars
    ) -> tuple[ir.Value, ...]:
        """See the class."""
        b1, b2 = self.betas
        if decay is not None and not self._decoupled:
            d = g.Add(d, g.Mul(p, decay))
        m = g.Add(g.Mul(memory[0], b1), g.Mul(d, 1 - b1))
        v = g.Add(g.Mul(memory[1], b2), g.Mul(g.Mul(d, d), 1 - b2))
        # The corrections are two scalars, so that the vectors are read once less:
        # m / c1 / (sqrt(v) / sqrt(c2) + eps) = m * (sqrt(c2) / c1) / (sqrt(v) + eps * sqrt(c2))
        c1, c2 = (g.Sub(np.array(1.0), g.Pow(np.array(beta), s.step)) for beta in self.betas)
        root = g.Sqrt(c2)
        rate = g.Mul(s.rate, g.Cast(g.Div(root, c1), to=s.dtype.value))
        eps: float | ir.Value = self.eps
        if self._eps_is_corrected:
            eps = g.Cast(g.Mul(root, self.eps), to=s.dtype.value)
        change = g.Div(g.Mul(m, rate), g.Add(g.Sqrt(v), eps))
        if decay is None or not self._decoupled:
            return g.Sub(p, change), m, v
        kept = g.Sub(g.scalar(1, p), g.Mul(decay, s.rate))
        if self._decays_last:
            return g.Mul(g.Sub(p, change), kept), m, v
        return g.Sub(g.Mul(p, kept), change), m, v


@dataclass(frozen=True)
class AdamW(Adam):
    """`torch.optim.AdamW`, with its defaults: Adam, and p *= 1 - rate * weight_decay in place of what is added."""

    weight_decay: float = 1e-2
    _decoupled: ClassVar[bool] = True


@dataclass(frozen=True)
class OrtAdamW(AdamW):
    """ONNX Runtime's AdamW, with its defaults; "AdamW" by name.

    It adds eps before it corrects v, and applies weight decay after the step.
    """

    weight_decay: float = 0.0
    eps: float = 1e-6
    _eps_is_corrected: ClassVar[bool] = False
    _decays_last: ClassVar[bool] = True


#: By the names of ONNX Runtime's `OptimType`, and Adam.
BY_NAME: dict[str, type[Optimizer]] = {"AdamW": OrtAdamW, "SGD": SGD, "Adam": Adam}


def optimizer_model(
    optimizer: Optimizer, parameters: Mapping[str, Sequence[int]], opset: int, dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.Model:
    """The graph that takes one step of an optimiser.

    Args:
        optimizer: which one.
        parameters: shapes by name, in the order in which they stand behind one another.
        opset: of the graph; 13 or newer.
        dtype: of the parameters.

    Raises:
        OnnxCbpError: a pattern of `no_decay` is no parameter's name.
    """
    total = sum(math.prod(shape) for shape in parameters.values())
    vectors = {name: _input(name, dtype, total) for name in ("parameters", "gradients", *optimizer.slots)}
    step, rate = _input("step", ir.DataType.INT64, 1), _input("learning_rate", ir.DataType.FLOAT, 1)
    graph = ir.Graph([*vectors.values(), step, rate], [], nodes=[], opset_imports={"": opset}, name="optimizer")
    model = ir.Model(graph, ir_version=ir_version(opset))
    g = Builder(model)
    next_step = g.Add(step, 1)
    scalars = Scalars(
        g.Cast(g.Squeeze(rate, [0]), to=dtype.value),
        g.Cast(g.Squeeze(next_step, [0]), to=ir.DataType.DOUBLE.value),
        dtype,
    )
    p, d, *memory = vectors.values()
    if optimizer.max_grad_norm is not None:
        d = _clipped(g, d, optimizer.max_grad_norm)
    new = optimizer.update(g, p, d, _decay(g, optimizer, parameters, p), memory, scalars)
    results = [*new, next_step]
    g.commit(results)
    for name, value in zip(["parameters", *optimizer.slots, "step"], results, strict=True):
        value.name = f"{name}_next"
        graph.outputs.append(value)
    model.metadata_props[METADATA] = json.dumps({"kind": kind(optimizer), "slots": list(optimizer.slots)})
    return model


def kind(optimizer: Optimizer) -> str:
    """What a checkpoint says of an optimiser; both forms of AdamW are one, since they go on from each other's state."""
    return "AdamW" if isinstance(optimizer, AdamW) else type(optimizer).__name__


def ir_version(opset: int) -> int:
    """The oldest IR version that a graph of this opset may have."""
    return onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], ignore_unknown=True)


def _input(name: str, dtype: ir.DataType, size: int) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([size]))


def _clipped(g: Builder, d: ir.Value, largest: float) -> ir.Value:
    """`torch.nn.utils.clip_grad_norm_`: scaled by largest / (norm + 1e-6) where that is below 1."""
    norm = g.Sqrt(g.reduce("ReduceSumSquare", d, [0], keepdims=1))
    factor = g.Min(g.Div(g.scalar(largest, d), g.Add(norm, 1e-6)), 1.0)
    return g.Mul(d, factor)


def _decay(
    g: Builder, optimizer: Optimizer, parameters: Mapping[str, Sequence[int]], like: ir.Value
) -> ir.Value | None:
    """The weight decay: a scalar, or a vector with one number per parameter if some have none."""
    patterns = (optimizer.no_decay,) if isinstance(optimizer.no_decay, str) else tuple(optimizer.no_decay)
    for pattern in patterns:
        if not fnmatch.filter(parameters, pattern):
            raise OnnxCbpError(f"no_decay: '{pattern}' is the name of no parameter that trains")
    if not optimizer.weight_decay:
        return None

    def decays(name: str, shape: Sequence[int]) -> bool:
        spared = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        return not spared and (optimizer.decay_vectors or len(shape) > 1)

    sizes = [(decays(name, shape), math.prod(shape)) for name, shape in parameters.items()]
    if all(each for each, _ in sizes):
        return g.scalar(optimizer.weight_decay, like)
    # In runs of parameters with or without decay: so the file stays small, and a session computes the vector once.
    pieces = [
        g.Expand(g.scalar(optimizer.weight_decay * each, like), [sum(size for _, size in run)])
        for each, run in itertools.groupby(sizes, key=lambda item: item[0])
    ]
    return pieces[0] if len(pieces) == 1 else g.Concat(*pieces, axis=0)


def _check(right: bool, name: str, value: object, allowed: str) -> None:
    if not right:
        raise OnnxCbpError(f"{name} is {value!r}; it must be {allowed}")
