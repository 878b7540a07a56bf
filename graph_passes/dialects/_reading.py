"""Reading nodes: optional inputs and outputs, attributes with defaults."""

from __future__ import annotations

import onnx_ir as ir


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index`, None where it is absent or empty."""
    return node.inputs[index] if index < len(node.inputs) else None


def optional_output(node: ir.Node, index: int) -> ir.Value | None:
    """Output `index`, None where it is absent or unnamed."""
    if index >= len(node.outputs) or not node.outputs[index].name:
        return None
    return node.outputs[index]


def first_missing(node: ir.Node, names: tuple[str, ...]) -> str | None:
    """The formal name of the first of the leading inputs that is absent."""
    for index, name in enumerate(names):
        if optional_input(node, index) is None:
            return name
    return None


def attribute(node: ir.Node, name: str, default: int | float) -> int | float:
    """An int or float attribute, or its default."""
    value = node.attributes.get(name)
    if value is None:
        return default
    return value.as_int() if isinstance(default, int) else value.as_float()


def refers_to_function_attribute(node: ir.Node) -> str | None:
    """The first attribute whose value a model-local function takes from its caller; it is not known here."""
    return next((name for name, value in node.attributes.items() if value.is_ref()), None)
