"""Checks that windows move on: onnx before 1.18 divides by the strides, and 0 would end the process."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.walking import Identifier, Scope, called, canonical, function_identifier, identifier, nodes


def check_strides(model: onnx.ModelProto, functions: Sequence[onnx.FunctionProto]) -> None:
    """Check the strides of every op of ONNX, also those that a function gets from its callers.

    Args:
        model: what is looked at.
        functions: those of the model, each behind those that it calls.

    Raises:
        OnnxCbpError: one is below 1.
    """
    taken: dict[Identifier, Collection[str]] = {}
    defaults = {function_identifier(each): getattr(each, "attribute_proto", ()) for each in functions}
    every: list[Scope] = [*functions, model.graph]
    for scope in every:
        handed_on = set()
        for node in nodes(scope):
            key = identifier(node)
            names = taken.get(key, () if canonical(node.domain) else ("strides",))
            for attribute in (*node.attribute, *defaults.get(key, ())) if names else ():
                if attribute.name not in names:
                    continue
                if attribute.ref_attr_name:
                    handed_on.add(attribute.ref_attr_name)
                elif any(each < 1 for each in attribute.ints):
                    raise OnnxCbpError(
                        f"the model is not valid ONNX: {called(node)} has {attribute.name} = {list(attribute.ints)}: "
                        "give numbers of at least 1"
                    )
        if isinstance(scope, onnx.FunctionProto):
            taken[function_identifier(scope)] = handed_on
