"""Checks that a call of a function omits no input that an op in the function needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.operators import required_inputs
from onnx_cbp.validity.opsets import function_opsets
from onnx_cbp.validity.walking import Identifier, Scope, called, function_identifier, identifier, nodes

#: A node that cannot do without it, by the name of an input of a function.
_Needs = dict[str, onnx.NodeProto]


def check_omitted(model: onnx.ModelProto, functions: Sequence[onnx.FunctionProto], imports: dict[str, int]) -> None:
    """Check that every call of a model-local function gives what an op in the function cannot do without.

    Where the function is put in the place of the call, the op would lack an input.

    Args:
        model: what is looked at.
        functions: those of the model, each behind those that it calls.
        imports: the opsets that the model imports.

    Raises:
        OnnxCbpError: a call leaves such an input out.
    """
    known: dict[Identifier, tuple[onnx.FunctionProto, _Needs]] = {}
    for function in functions:
        opset = function_opsets(function, imports).get("", 0)
        _check_calls(function, known)
        needs: _Needs = {}
        inputs = set(function.input)
        for node in nodes(function):
            needs.update((name, node) for name in _needed(node, opset, known) if name in inputs)
        known[function_identifier(function)] = function, needs
    _check_calls(model.graph, known)


def _check_calls(scope: Scope, known: dict[Identifier, tuple[onnx.FunctionProto, _Needs]]) -> None:
    for node in nodes(scope):
        function, needs = known.get(identifier(node), (None, {}))
        for index, formal in enumerate(function.input if function is not None and needs else ()):
            if formal in needs and not (index < len(node.input) and node.input[index]):
                raise OnnxCbpError(
                    f"the model is not valid ONNX: {called(node)} gives nothing for '{formal}', which "
                    f"{called(needs[formal])} in that function needs"
                )


def _needed(
    node: onnx.NodeProto, opset: int, known: dict[Identifier, tuple[onnx.FunctionProto, _Needs]]
) -> Iterable[str]:
    """What a node of a function reads that it cannot do without."""
    if identifier(node) not in known:
        return node.input[: required_inputs(node, opset)]
    function, needs = known[identifier(node)]
    return (name for name, formal in zip(node.input, function.input, strict=False) if formal in needs)
