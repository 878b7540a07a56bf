"""The one table of gradient rules, by op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_cbp.graph_passes.core.stopped import stops_gradients

if TYPE_CHECKING:
    from onnx_cbp.graph_passes.differentiating.builder import Builder


class Zero(Enum):
    """A rule's answer for an input whose gradient is always zero."""

    ZERO = 0


ZERO = Zero.ZERO

#: A rule's answer for one input: its gradient, `ZERO`, or None if the op has no gradient for this input. If a gradient
#: is wanted, None is an error: so what a rule has forgotten never counts as zero.
InputGradient = ir.Value | Zero | None

#: rule(builder, node, gradient of each output or None) -> the gradient of each input, in order. Inputs after the last
#: answer count as None.
Rule = Callable[..., Sequence[InputGradient]]

_RULES: dict[tuple[str, str], Rule] = {}
_STEPS: set[tuple[str, str]] = set()


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for ops of a domain ("" is ONNX's own)."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            assert (domain, op_type) not in _RULES, f"{op_type} has a rule already"
            _RULES[domain, op_type] = function
        return function

    return register


def flat(*op_types: str, domain: str = "") -> None:
    """Register ops whose results are constant wherever they are differentiable: gradients do not pass through them."""
    _STEPS.update((domain, op_type) for op_type in op_types)


def rule_of(node: ir.Node) -> Rule | None:
    """The rule for a node's op; None where there is none."""
    return _RULES.get(_key(node))


def is_flat(node: ir.Node) -> bool:
    """Whether gradients do not pass through the node; see `flat`, and `stops_gradients`."""
    return _key(node) in _STEPS or stops_gradients(node)


def registered() -> frozenset[tuple[str, str]]:
    """The (domain, op type) of every rule."""
    return frozenset(_RULES)


def apply(function: Rule, builder: Builder, node: ir.Node, gradients: Sequence[Any]) -> list[InputGradient]:
    """A rule's answers, one for each input of the node."""
    answers = list(function(builder, node, *gradients))[: len(node.inputs)]  # a node may leave out optional inputs
    return answers + [None] * (len(node.inputs) - len(answers))


def _key(node: ir.Node) -> tuple[str, str]:
    return (node.domain, node.op_type)
