"""Checks that a model's functions can be called."""

from __future__ import annotations

import graphlib

import onnx

from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.opsets import is_op
from onnx_cbp.validity.walking import Identifier, Scope, called, function_identifier, identifier, nodes, scopes

#: Nodes that a model may have with its functions in their places, or else this many times those that are written.
_MOST_NODES, _MOST_TIMES = 4096, 100


def check_functions(model: onnx.ModelProto, imports: dict[str, int]) -> list[onnx.FunctionProto]:
    """Check every call of a model-local function.

    Returns:
        The functions, each behind those that it calls; not those that have the name of an op, which nothing calls.

    Raises:
        OnnxCbpError: two functions of one name, one that calls itself, a call with more inputs or outputs than the
            function has or with an attribute of another type; one that was the body of an op of ours until a tool
            renamed it.
    """
    if not model.functions:
        return []
    functions: dict[Identifier, onnx.FunctionProto] = {}
    for function in model.functions:
        key = function_identifier(function)
        if key in functions:
            raise _error(f"there are two functions '{_name(key)}': give each a name of its own")
        _refuse_renamed(function)
        functions[key] = function
    functions = {key: function for key, function in functions.items() if not is_op(key, imports)}
    types = {key: _attribute_types(function) for key, function in functions.items()}
    calls: dict[Identifier, set[Identifier]] = {key: set() for key in functions}
    for scope in scopes(model):
        for node in nodes(scope):
            key = identifier(node)
            if key not in functions:
                continue
            if isinstance(scope, onnx.FunctionProto) and function_identifier(scope) in functions:
                calls[function_identifier(scope)].add(key)
            _check_call(node, functions[key], types[key])
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())  # callees first
    except graphlib.CycleError as error:
        chain = " calls ".join(f"'{_name(key)}'" for key in reversed(error.args[1]))
        raise _error(f"the function {chain}: no function may call itself") from None
    _bound(model, functions, order)
    return [functions[key] for key in order]


def _bound(model: onnx.ModelProto, functions: dict[Identifier, onnx.FunctionProto], order: list[Identifier]) -> None:
    """Refuse functions that call functions that call functions until no memory holds what they amount to."""
    sizes: dict[Identifier, int] = {}
    written = 0
    every: list[Scope] = [*(functions[key] for key in order), model.graph]
    for scope in every:
        own = list(nodes(scope))
        written += len(own)
        size = sum(sizes.get(identifier(node), 1) for node in own)
        if size > _MOST_NODES and size > _MOST_TIMES * written:
            where = f"the function '{scope.name}'" if isinstance(scope, onnx.FunctionProto) else "the graph"
            raise _error(
                f"{where} with all functions that it calls in their places has {size} nodes, of {written} that are "
                "written: call fewer functions, or inline them beforehand (onnx.inliner)"
            )
        if isinstance(scope, onnx.FunctionProto):
            sizes[function_identifier(scope)] = size


def _refuse_renamed(function: onnx.FunctionProto) -> None:
    """Refuse the body of an op of ours under another name, behind which no batch norm would be found."""
    if function.domain == DOMAIN and function.name not in OPERATORS and function.name.endswith(tuple(OPERATORS)):
        raise OnnxCbpError(
            f"the function '{_name(function_identifier(function))}' is an op of {DOMAIN} that a tool has renamed: "
            "prefix the model with rename_functions=False (onnx.compose.add_prefix), or merge models before rewrite"
        )


def _error(reason: str) -> OnnxCbpError:
    return OnnxCbpError(f"the model is not valid ONNX: {reason}")


def _name(key: Identifier) -> str:
    return "::".join(part for part in key if part)


def _attribute_types(function: onnx.FunctionProto) -> dict[str, set[int]]:
    """The types of each attribute that the nodes of a function take from its caller."""
    types: dict[str, set[int]] = {}
    for node in nodes(function):
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                types.setdefault(attribute.ref_attr_name, set()).add(attribute.type)
    return types


def _check_call(node: onnx.NodeProto, function: onnx.FunctionProto, types: dict[str, set[int]]) -> None:
    for kind, given, taken in (("input", node.input, function.input), ("output", node.output, function.output)):
        if len(given) > len(taken):
            raise _error(
                f"{called(node)} has {len(given)} {kind}s, and the function that it calls has {len(taken)}: leave "
                "out those that are too many"
            )
    for attribute in (*node.attribute, *getattr(function, "attribute_proto", ())):
        others = types.get(attribute.name, set()) - {attribute.type}
        if others:
            kinds = onnx.AttributeProto.AttributeType
            raise _error(
                f"{called(node)} has the attribute '{attribute.name}' of type {kinds.Name(attribute.type)}, which the "
                f"function that it calls takes for {kinds.Name(min(others))}"
            )
