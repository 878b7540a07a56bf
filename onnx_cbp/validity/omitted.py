"""Checks that a call of a function omits no input and no attribute that an op in the function needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import onnx

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.operators import required_attributes, required_inputs
from onnx_cbp.validity.opsets import function_opsets
from onnx_cbp.validity.walking import Identifier, Scope, called, function_identifier, identifier, nodes


@dataclass(frozen=True)
class _Needs:
    """What a call of a function has to give: by its name there, a node of the function that cannot do without it."""

    formals: Sequence[str] = ()
    inputs: dict[str, onnx.NodeProto] = field(default_factory=dict)
    attributes: dict[str, onnx.NodeProto] = field(default_factory=dict)


_Known = dict[Identifier, _Needs]


def check_omitted(model: onnx.ModelProto, functions: Sequence[onnx.FunctionProto], imports: dict[str, int]) -> None:
    """Check that every call of a model-local function gives what an op in the function cannot do without.

    Where the function is put in the place of the call, the op would lack an input, or an attribute.

    Args:
        model: what is looked at.
        functions: those of the model, each behind those that it calls.
        imports: the opsets that the model imports.

    Raises:
        OnnxCbpError: a call leaves such an input or attribute out.
    """
    known: _Known = {}
    for function in functions:
        opset = function_opsets(function, imports).get("", 0)
        _check_calls(function, known)
        needs = _Needs(function.input)
        inputs = set(function.input)
        defaults = {attribute.name for attribute in getattr(function, "attribute_proto", ())}
        for node in nodes(function):
            needs.inputs.update((name, node) for name in _inputs(node, opset, known) if name in inputs)
            needs.attributes.update((name, node) for name in _attributes(node, opset, known) if name not in defaults)
        known[function_identifier(function)] = needs
    _check_calls(model.graph, known)


def _check_calls(scope: Scope, known: _Known) -> None:
    for node in nodes(scope):
        needs = known.get(identifier(node), _Needs())
        for index, formal in enumerate(needs.formals if needs.inputs else ()):
            if formal in needs.inputs and not (index < len(node.input) and node.input[index]):
                raise _error(node, f"nothing for '{formal}'", needs.inputs[formal])
        given = {attribute.name for attribute in node.attribute}
        for name, inner in needs.attributes.items():
            if name not in given:
                raise _error(node, f"no attribute '{name}'", inner)


def _error(node: onnx.NodeProto, what: str, inner: onnx.NodeProto) -> OnnxCbpError:
    return OnnxCbpError(
        f"the model is not valid ONNX: {called(node)} gives {what}, which {called(inner)} in that function needs"
    )


def _inputs(node: onnx.NodeProto, opset: int, known: _Known) -> Iterable[str]:
    """What a node of a function reads that it cannot do without."""
    needs = known.get(identifier(node))
    if needs is None:
        return node.input[: required_inputs(node, opset)]
    return (name for name, formal in zip(node.input, needs.formals, strict=False) if formal in needs.inputs)


def _attributes(node: onnx.NodeProto, opset: int, known: _Known) -> Iterator[str]:
    """What a node of a function takes from the caller for an attribute that it cannot do without."""
    needs = known.get(identifier(node))
    required = required_attributes(node, opset) if needs is None else needs.attributes
    for attribute in node.attribute:
        if attribute.ref_attr_name and attribute.name in required:
            yield attribute.ref_attr_name
