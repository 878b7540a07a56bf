"""Replaces calls of model-local functions with their bodies."""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.errors import OnnxCbpError, foreign
from onnx_cbp.graph_passes.core.functions.conversion import adapt, obstacle
from onnx_cbp.graph_passes.core.scopes import all_nodes, write_defaults
from onnx_cbp.graph_passes.core.sites import label

#: (domain, name, overload).
Identifier = tuple[str, str, str]

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
#: onnx-ir tries names from the first one on. So functions with more calls than this are inlined from the callees
#: upwards.
_MANY = 64


def inline(model: ir.Model, wanted: Collection[Identifier], *, must: Collection[Identifier]) -> bool:
    """Inline functions wherever they are called, in place; returns whether there were any.

    A function that imports another opset than the model is treated as one of the model's opset, if all its nodes mean
    the same there.

    Args:
        model: the model.
        wanted: the functions.
        must: functions among them that it is an error not to inline; others stay, with everything they call.

    Raises:
        OnnxCbpError: one line: a function that must be inlined cannot be, and why.
    """
    calls = _calls(model)
    reasons = {identifier: _reason(model, identifier) for identifier in wanted}
    kept: set[Identifier] = {identifier for identifier, reason in reasons.items() if reason is not None}
    kept |= {
        identifier for identifier in model.functions if identifier not in wanted and _is_other_opset(model, identifier)
    }
    waiting = list(kept)
    while waiting:  # a function that keeps its opset keeps its callees, which would otherwise get the model's opset
        caller = waiting.pop()
        for called in calls[caller]:
            if called in wanted and called not in kept:
                reasons[called] = f"it is called by '{_name(caller)}', which stays"
                kept.add(called)
                waiting.append(called)
    for identifier in must:
        if identifier in kept:
            raise OnnxCbpError(
                f"the function '{_name(identifier)}' cannot be inlined: {reasons[identifier]}: convert the model to "
                "one opset with its functions inlined (onnx.inliner, onnx.version_converter)"
            )
    chosen = [identifier for identifier in wanted if identifier not in kept]
    if not chosen:
        return False
    for identifier in chosen:
        function = model.functions[identifier]
        adapt(RecursiveGraphIterator(function), model.opset_imports[""])
        for domain in function.opset_imports:
            if domain in model.opset_imports:
                function.opset_imports[domain] = model.opset_imports[domain]
    _name_outputs(model, set(chosen))
    for group in _groups(model, set(chosen), calls):
        with foreign("the model's functions cannot be inlined"):
            InlinePass(criteria=lambda function, group=group: function.identifier() in group)(model)  # type: ignore[misc]
    for identifier in chosen:
        model.functions.pop(identifier, None)  # one that nobody calls
    write_defaults(model)  # what an op takes from the caller, the caller may leave out
    return True


def _name(identifier: Identifier) -> str:
    return "::".join(part for part in identifier if part)


def _calls(model: ir.Model) -> dict[Identifier, set[Identifier]]:
    """The functions that each function calls."""
    return {
        identifier: {node.op_identifier() for node in RecursiveGraphIterator(function)} & set(model.functions)
        for identifier, function in model.functions.items()
    }


def _is_other_opset(model: ir.Model, identifier: Identifier) -> bool:
    own = model.functions[identifier].opset_imports.get("")
    return own is not None and own != model.opset_imports.get("")


def _reason(model: ir.Model, identifier: Identifier) -> str | None:
    """Why a function cannot be inlined; None if it can."""
    function = model.functions[identifier]
    for domain, version in function.opset_imports.items():
        have = model.opset_imports.get(domain, version)
        if have == version or domain in {each[0] for each in model.functions}:
            continue  # opsets of other functions do not matter: the model has these functions itself
        if domain:
            return f"it imports version {version} of '{domain}', and the model version {have}"
        different = obstacle(RecursiveGraphIterator(function), version, have)
        if different is not None:
            return different
    for node in all_nodes(model):
        if node.op_identifier() == identifier and any(each.type in _GRAPHS for each in node.attributes.values()):
            return f"its call '{label(node)}' gives it a graph as an attribute"
    return None


def _name_outputs(model: ir.Model, chosen: set[Identifier]) -> None:
    """Name all results of a function in calls that leave out the last ones."""
    for node in all_nodes(model):
        if node.op_identifier() in chosen:
            node.resize_outputs(len(model.functions[node.op_identifier()].outputs))


def _groups(
    model: ir.Model, chosen: set[Identifier], calls: dict[Identifier, set[Identifier]]
) -> list[set[Identifier]]:
    """The functions in groups that are inlined at once, in order."""
    instances: Counter[Identifier] = Counter()
    order = list(graphlib.TopologicalSorter(calls).static_order())
    for node in RecursiveGraphIterator(model.graph):
        instances[node.op_identifier()] += 1
    for identifier in reversed(order):
        for node in RecursiveGraphIterator(model.functions[identifier]):
            instances[node.op_identifier()] += instances[identifier]
    if all(instances[identifier] <= _MANY for identifier in chosen):
        return [chosen]
    groups: list[set[Identifier]] = []
    depth: dict[Identifier, int] = {}
    for identifier in order:
        depth[identifier] = 1 + max((depth[called] for called in calls[identifier]), default=-1)
        if identifier in chosen:
            while len(groups) <= depth[identifier]:
                groups.append(set())
            groups[depth[identifier]].add(identifier)
    return [group for group in groups if group]
