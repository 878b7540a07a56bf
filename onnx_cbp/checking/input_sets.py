"""The sets of inputs that a comparison is made on: what one set hides, another shows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from onnx_cbp.checking.graphs import nodes
from onnx_cbp.checking.roles import BATCH_NORMS, Kind, Role
from onnx_cbp.custom_ops import DOMAIN

#: Values as in a network at work; in training graphs, a step that starts the accumulation of gradients anew.
USUAL = "usual"
#: The same, so small that the variance of some channels of each batch norm is near its epsilon.
SMALL_VARIANCES = "variances near epsilon"
#: The step after the usual one, which adds its gradients to those of the first.
ACCUMULATING = "gradients accumulate"

_DEFAULT_EPSILON = 1e-5


def near_epsilon(
    usual: Mapping[str, np.ndarray], roles: Mapping[str, Role], model: onnx.ModelProto
) -> dict[str, np.ndarray] | None:
    """Inputs that show what epsilon is: with variances of 1, one that is wrong by a factor of 5 is lost in rounding.

    Data and weights are made as small as the square roots of the model's epsilons, channel by channel in turn, so that
    every batch norm meets its own.

    Returns:
        The inputs; None where the model has no batch norm.
    """
    roots = [math.sqrt(epsilon) for epsilon in sorted(_epsilons(model)) if epsilon > 0]
    if not roots:
        return None
    return {
        name: _scaled(array, roles[name].kind, roots)
        if array.dtype.kind == "f" and roles[name].kind in (Kind.DATA, Kind.WEIGHT)
        else array
        for name, array in usual.items()
    }


def accumulating(
    usual: Mapping[str, np.ndarray], roles: Mapping[str, Role], results: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray] | None:
    """Inputs of the next step without a reset in between: the buffers as the original left them, every flag off.

    Returns:
        The inputs; None where the model accumulates nothing.
    """
    if not any(role.kind in (Kind.BUFFER, Kind.OVERWRITE) for role in roles.values()):
        return None
    return {name: _next(array, roles[name].kind, results.get(name)) for name, array in usual.items()}


def _next(array: np.ndarray, kind: Kind, left: np.ndarray | None) -> np.ndarray:
    if kind is Kind.OVERWRITE:
        return np.zeros_like(array)
    return left if kind is Kind.BUFFER and left is not None else array


def _scaled(array: np.ndarray, kind: Kind, roots: list[float]) -> np.ndarray:
    # Channels: the second axis of data, the first of weights and of vectors.
    axis = 1 if kind is Kind.DATA and array.ndim > 1 else 0
    if not array.ndim:
        return (array * roots[0]).astype(array.dtype)
    factors = np.resize(roots, array.shape[axis])
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return np.asarray(array * factors.reshape(shape)).astype(array.dtype)


def _epsilons(model: onnx.ModelProto) -> set[float]:
    holders = (model.graph.node, *(function.node for function in model.functions))
    found = set()
    for node in (n for holder in holders for n in nodes(holder)):
        stated = next((a.f for a in node.attribute if a.name == "epsilon"), None)
        if node.op_type in BATCH_NORMS or (node.domain == DOMAIN and stated is not None):
            found.add(_DEFAULT_EPSILON if stated is None else stated)
    return found
