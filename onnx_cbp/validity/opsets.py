"""Checks which opsets a model imports."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.walking import Identifier, canonical, graphs

_UPDATE = "update the package onnx, or convert the model (onnx.version_converter)"


def imported_opsets(model: onnx.ModelProto) -> dict[str, int]:
    """The versions that a model imports, by domain; ONNX's own is ""."""
    found = _versions(model.opset_import, "the model")
    uses_onnx = _uses_onnx(model.graph)
    for function in model.functions:
        own = _versions(function.opset_import, f"the function '{function.name}'")
        if "" not in own and _uses_onnx(function):
            uses_onnx = True  # it is taken for the model's
    if uses_onnx and "" not in found:
        raise OnnxCbpError(
            "the model is not valid ONNX: it has nodes of ONNX's ops and does not import ONNX's opset: add "
            "onnx.helper.make_opsetid('', version) to its opset_import"
        )
    return found


def function_opsets(function: onnx.FunctionProto, model: dict[str, int]) -> dict[str, int]:
    """The versions by which the nodes of a function are read; what it does not import itself is the model's."""
    return {**model, **_versions(function.opset_import, f"the function '{function.name}'")}


def is_op(function: Identifier, imports: dict[str, int]) -> bool:
    """Whether a function has the name of an op of ONNX: nodes of this name are the op, as ONNX Runtime has it.

    ONNX leaves it to each runtime whether a node of that name calls the function.
    """
    domain, name, overload = function
    try:
        return (domain, overload) == ("", "") and not onnx.defs.get_schema(name, imports.get("", 1), "").deprecated
    except onnx.defs.SchemaError:
        return False


def _versions(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in imports:
        domain = canonical(each.domain)
        if found.setdefault(domain, each.version) != each.version:
            name = domain or "ai.onnx"
            raise OnnxCbpError(
                f"the model is not valid ONNX: {where} imports two opsets of '{name}', {found[domain]} and "
                f"{each.version}: keep the one that its nodes are of"
            )
    version, newest = found.get("", 1), onnx.defs.onnx_opset_version()
    if not 1 <= version <= newest:
        raise OnnxCbpError(
            f"{where} imports opset {version} of ONNX, and onnx {onnx.__version__} knows 1 to {newest}: {_UPDATE}"
        )
    return found


def _uses_onnx(scope: onnx.GraphProto | onnx.FunctionProto) -> bool:
    return any(canonical(node.domain) == "" for graph in graphs(scope) for node in graph.node)
