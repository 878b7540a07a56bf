"""Inlines the model-local functions that contain a batch norm, or a part of one."""

from __future__ import annotations

from types import UnionType

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.analysis import recognise
from onnx_cbp.graph_passes.core.functions.inlining import Identifier, inline
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.sites import InferenceSite, LeftAlone
from onnx_cbp.graph_passes.core.values.constants import RANDOM
from onnx_cbp.graph_passes.dialects.primitive_arithmetic import MAKES_STATISTICS


class InlineFunctionsPass(InPlacePass):
    """Inlines every function that contains such a batch norm, or calls a function that does.

    Inside a function no value has a type, and ONNX Runtime cannot infer types through a custom op: a rewritten function
    would not load. Also, a function may be called with several types; after inlining, each copy of the batch norm gets
    the types and attributes of its caller. Functions of our own domain are op bodies, and stay.

    Also inlined are functions in which parts of a batch norm in arithmetic may be computed, since nothing is read
    through a call. If one of these cannot be inlined, it stays.

    With `inference`, functions that contain a batch norm in inference form are inlined too.
    """

    def __init__(self, *, inference: bool = False) -> None:
        super().__init__()
        self._left = LeftAlone if inference else LeftAlone | InferenceSite

    def call(self, model: ir.Model) -> PassResult:
        """Inline in place."""
        wanted = {
            identifier
            for identifier, function in model.functions.items()
            if identifier[0] != DOMAIN and _holds_batch_norm(function, model, self._left)
        }
        must = _with_callers(model, wanted)
        parts = {
            identifier
            for identifier, function in model.functions.items()
            if identifier[0] != DOMAIN and _may_hold_a_part(function)
        }
        return PassResult(model, modified=inline(model, must | _with_callers(model, parts), must=must))


class InlineAllFunctionsPass(InPlacePass):
    """Inlines every function except those of our own domain, which are bodies of ops.

    A function that cannot be inlined stays if it has only ONNX ops, and no batch norm, Dropout or random op among them:
    then it computes the same at inference as in training. With `none_stays` it is refused like any other: for what
    follows samples, which does not see into a function.
    """

    def __init__(self, *, none_stays: bool = False) -> None:
        super().__init__()
        self._none_stays = none_stays

    def call(self, model: ir.Model) -> PassResult:
        """Inline in place."""
        wanted = {identifier for identifier in model.functions if identifier[0] != DOMAIN}
        may_stay = set() if self._none_stays else {each for each in wanted if _is_plain(model.functions[each], model)}
        must = wanted - may_stay
        return PassResult(model, modified=inline(model, wanted, must=must))


def _with_callers(model: ir.Model, wanted: set[Identifier]) -> set[Identifier]:
    """Functions, and all functions that call them."""
    callers = {
        identifier: {node.op_identifier() for node in RecursiveGraphIterator(function)}
        for identifier, function in model.functions.items()
    }
    found = set(wanted)
    while more := {identifier for identifier, called in callers.items() if called & found} - found:
        found |= more
    return found


def _may_hold_a_part(function: ir.Function) -> bool:
    """Whether a function may contain statistics, or the root of a variance."""
    return any(node.domain == "" and node.op_type in MAKES_STATISTICS for node in RecursiveGraphIterator(function))


def _is_plain(function: ir.Function, model: ir.Model) -> bool:
    if _holds_batch_norm(function, model, ()):
        return False
    return all(
        node.op_identifier() in model.functions
        or (node.domain == "" and node.op_type not in ("Dropout", "BatchNormalization", *RANDOM))
        for node in RecursiveGraphIterator(function)
    )


def _holds_batch_norm(function: ir.Function, model: ir.Model, left: type | UnionType | tuple[()]) -> bool:
    opset = onnx_opset({**model.opset_imports, **function.opset_imports})
    for node in RecursiveGraphIterator(function):
        site = recognise(node, opset)
        by_caller = any(attribute.is_ref() for attribute in node.attributes.values())
        if by_caller and (site is not None or node.domain == DOMAIN):
            return True  # ops of ours are read with their attributes
        if site is not None and not isinstance(site, left):
            return True
    return False
