"""The sets of inputs for a comparison: one set shows differences that another hides."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from onnx_cbp.checking.feeding.roles import BATCH_NORMS, WEIGHT_READERS, Kind, Role
from onnx_cbp.checking.graphs import GraphReader
from onnx_cbp.custom_ops import DOMAIN

#: Values as in a working network; in training graphs, a step that resets the accumulated gradients.
USUAL = "usual"
#: The same, but so small that in each batch norm the variance of some channels is near epsilon.
SMALL_VARIANCES = "variances near epsilon"
#: The step after the usual one, which adds its gradients to those of the first.
ACCUMULATING = "gradients accumulate"

_DEFAULT_EPSILON = 1e-5
_SCALED = (Kind.DATA, Kind.WEIGHT)


def near_epsilon(
    usual: Mapping[str, np.ndarray], roles: Mapping[str, Role], model: onnx.ModelProto
) -> dict[str, np.ndarray] | None:
    """Inputs that show the value of epsilon: with variances of 1, even a factor of 5 would be lost in rounding.

    Weights before batch norms (and data if no weights are fed) are made as small as the square roots of the model's
    epsilons, which alternate over the channels, so that every batch norm meets its own. Weights that are constants of
    the graph stay as they are. So do the variances after them, except those of the first batch norm.

    Returns:
        The inputs; None if no input comes before a batch norm.
    """
    reader = GraphReader(model)
    roots = [math.sqrt(epsilon) for epsilon in sorted(_epsilons(reader)) if epsilon > 0]
    small = {
        name: _scaled(array, roles[name].kind, roots)
        for name, array in usual.items()
        if roots
        and array.dtype.kind == "f"
        and roles[name].kind in _SCALED
        and _sets_variance(name, reader, set(usual))
    }
    return {**usual, **small} if small else None


def accumulating(
    usual: Mapping[str, np.ndarray], roles: Mapping[str, Role], results: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray] | None:
    """Inputs of the next step without a reset in between: the buffers as the original left them, all flags off.

    Returns:
        The inputs; None if the model accumulates nothing.
    """
    if not any(role.kind in (Kind.BUFFER, Kind.OVERWRITE) for role in roles.values()):
        return None
    return {name: _next(array, roles[name].kind, results.get(name)) for name, array in usual.items()}


def _next(array: np.ndarray, kind: Kind, left: np.ndarray | None) -> np.ndarray:
    if kind is Kind.OVERWRITE:
        return np.zeros_like(array)
    return left if kind is Kind.BUFFER and left is not None else array


def _scaled(array: np.ndarray, kind: Kind, roots: list[float]) -> np.ndarray:
    # The axis of the channels: the second of data, the first of weights and of vectors.
    axis = 1 if kind is Kind.DATA and array.ndim > 1 else 0
    if not array.ndim:
        return (array * roots[0]).astype(array.dtype)
    factors = np.resize(roots, array.shape[axis])
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return np.asarray(array * factors.reshape(shape)).astype(array.dtype)


def _sets_variance(name: str, reader: GraphReader, fed: set[str]) -> bool:
    """Whether an input reaches a batch norm without passing other fed weights."""
    waiting, seen = [name], {name}
    while waiting:
        for node, index in reader.uses(waiting.pop()):
            if _epsilon(node) is not None:
                if index == 0:
                    return True
            elif not (node.op_type in WEIGHT_READERS and index == 0 and node.input[1] in fed):
                fresh = set(node.output) - seen
                seen |= fresh
                waiting.extend(fresh)
    return False


def _epsilons(reader: GraphReader) -> set[float]:
    return {epsilon for node in reader.nodes() if (epsilon := _epsilon(node)) is not None}


def _epsilon(node: onnx.NodeProto) -> float | None:
    """The epsilon of a batch norm that computes forward, in any form; None for any other node."""
    stated = next((a.f for a in node.attribute if a.name == "epsilon"), None)
    if node.op_type in BATCH_NORMS:
        return _DEFAULT_EPSILON if stated is None else stated
    return stated if node.domain == DOMAIN else None
