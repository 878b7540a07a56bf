"""Reads optional inputs and outputs of nodes, and attributes with defaults."""

from __future__ import annotations

from typing import overload

import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import ForwardSite, InferenceSite, LeftAlone
from onnx_cbp.graph_passes.core.values.constants import whole_numbers


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index`; None if it is absent or empty."""
    return node.inputs[index] if index < len(node.inputs) else None


def optional_output(node: ir.Node, index: int) -> ir.Value | None:
    """Output `index`; None if it is absent or unnamed."""
    if index >= len(node.outputs) or not node.outputs[index].name:
        return None
    return node.outputs[index]


def first_missing(node: ir.Node, names: tuple[str, ...]) -> str | None:
    """The formal name of the first absent input among the leading ones."""
    for index, name in enumerate(names):
        if optional_input(node, index) is None:
            return name
    return None


class WrongAttributeError(ValueError):
    """The type of an attribute is not the one that the op defines."""


@overload
def attribute(node: ir.Node, name: str, default: int) -> int: ...
@overload
def attribute(node: ir.Node, name: str, default: float) -> float: ...


def attribute(node: ir.Node, name: str, default: int | float) -> int | float:
    """An int or float attribute, or its default.

    Raises:
        WrongAttributeError: the attribute has another type.
    """
    value = node.attributes.get(name)
    if value is None:
        return default
    try:
        return value.as_int() if isinstance(default, int) else value.as_float()
    except TypeError:
        kind = "INT" if isinstance(default, int) else "FLOAT"
        raise WrongAttributeError(f"attribute '{name}' has type {value.type.name}, expected {kind}") from None


def reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a reduction; () if all are reduced; None if they are not known."""
    given = node.attributes.get("axes")
    if given is not None:
        return tuple(given.as_ints())
    axes = optional_input(node, 1)
    if axes is None:
        return ()
    return whole_numbers(axes)


def refers_to_function_attribute(node: ir.Node) -> str | None:
    """The first attribute whose value comes from the caller of a model-local function; it is unknown here."""
    return next((name for name, value in node.attributes.items() if value.is_ref()), None)


def forward_site(
    node: ir.Node,
    form: str,
    *,
    saved_var: ir.Value | None = None,
    saved_inv_std: ir.Value | None = None,
    updates_in_place: bool = False,
    needs: tuple[str, ...] = ("X", "scale", "B", "input_mean", "input_var"),
) -> ForwardSite | LeftAlone:
    """The site of a node with the inputs and first four outputs of ONNX's BatchNormalization in training form.

    It is LeftAlone if one of the inputs that it `needs` is missing.
    """
    missing = first_missing(node, needs)
    if missing or optional_output(node, 0) is None:
        return LeftAlone(node, form, f"'{missing or 'Y'}' is missing: the model is not valid")
    X, scale, B = node.inputs[:3]
    assert X is not None
    assert scale is not None
    assert B is not None
    return ForwardSite(
        node=node,
        form=form,
        axis=1,
        epsilon=attribute(node, "epsilon", 1e-5),
        momentum=attribute(node, "momentum", 0.9),
        X=X,
        scale=scale,
        B=B,
        running_mean=optional_input(node, 3),
        running_var=optional_input(node, 4),
        Y=node.outputs[0],
        updated_mean=optional_output(node, 1),
        updated_var=optional_output(node, 2),
        saved_mean=optional_output(node, 3),
        saved_var=saved_var,
        saved_inv_std=saved_inv_std,
        updates_in_place=updates_in_place,
    )


def inference_site(node: ir.Node, form: str, *, superfluous: tuple[ir.Value, ...] = ()) -> InferenceSite | LeftAlone:
    """The site of a node with the inputs and first output of ONNX's BatchNormalization in inference form."""
    missing = first_missing(node, ("X", "scale", "B", "input_mean", "input_var"))
    if missing or optional_output(node, 0) is None:
        return LeftAlone(node, form, f"'{missing or 'Y'}' is missing: the model is not valid")
    X, scale, B, mean, var = node.inputs[:5]
    assert X is not None
    assert scale is not None
    assert B is not None
    assert mean is not None
    assert var is not None
    return InferenceSite(
        node=node,
        form=form,
        axis=1,
        epsilon=attribute(node, "epsilon", 1e-5),
        momentum=attribute(node, "momentum", 0.9),
        X=X,
        scale=scale,
        B=B,
        mean=mean,
        var=var,
        Y=node.outputs[0],
        superfluous=superfluous,
    )
