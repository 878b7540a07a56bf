"""Says which node keeps a model of bfloat16 from being valid, or from running on a CPU."""

from __future__ import annotations

import re
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import label
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.types import Types

_NAME = "tensor(bfloat16)"
_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)\(\d+\) node with name '([^']*)'")
_BATCH_NORM = "BatchNormalization"


def taken_too_early(model: ir.Model, *, but_batch_norms: bool = False) -> str | None:
    """One line about the first node that gets bfloat16 in an opset in which its op does not take it; None without one.

    PyTorch's exporters write such models of networks under autocast, and what is computed from such a node has no type.

    Args:
        model: the model.
        but_batch_norms: pass over ONNX's batch norms, for which ops are written that take bfloat16.
    """
    if not _has_any(model):
        return None
    opset, types = onnx_opset(model.opset_imports), Types(model)
    for node in RecursiveGraphIterator(model.graph):
        if node.domain != "" or (but_batch_norms and node.op_type == _BATCH_NORM):
            continue
        for place, value in enumerate(node.inputs):
            if value is None or types.of(value) != ir.DataType.BFLOAT16 or _takes(node.op_type, place, opset):
                continue
            since = _first_that_takes(node.op_type, place, opset)
            where, mend = (
                (f"from opset {since} on", f"export in opset {since} or newer, or in float, without autocast")
                if since
                else (f"in no opset of onnx {onnx.__version__}", "export in float, without autocast")
            )
            return (
                f"node '{label(node)}' ({node.op_type}) gets '{value.name}' in bfloat16, which the op takes {where}, "
                f"and the model has opset {opset}: {mend}"
            )
    return None


def refuse_taken_too_early(model: ir.Model, *, but_batch_norms: bool = False) -> None:
    """Raise what `taken_too_early` finds.

    Raises:
        OnnxCbpError: it finds a node; the line.
    """
    line = taken_too_early(model, but_batch_norms=but_batch_norms)
    if line is not None:
        raise OnnxCbpError(line)


def without_kernel(model: ir.Model, message: str, version: str) -> str | None:
    """One line about the node of bfloat16 for which ONNX Runtime has no kernel, by its message; None if it has none."""
    found = _NO_KERNEL.search(message)
    if found is None:
        return None
    types = Types(model)
    for node in RecursiveGraphIterator(model.graph):
        if (node.op_type, node.name or "") != found.groups():
            continue
        for value in node.inputs:
            if value is not None and types.of(value) == ir.DataType.BFLOAT16:
                return (
                    f"node '{label(node)}' ({node.op_type}) gets '{value.name}' in bfloat16, for which onnxruntime "
                    f"{version} has no kernel of the op on a CPU: export in float, without autocast"
                )
    return None


def _has_any(model: ir.Model) -> bool:
    """Whether a value is declared as bfloat16, or cast to it; results need not be declared."""
    graph = model.graph
    if any(value.dtype == ir.DataType.BFLOAT16 for value in (*graph.inputs, *graph.initializers.values())):
        return True
    for node in RecursiveGraphIterator(graph):
        to = node.attributes.get("to") if node.op_type == "Cast" else None
        if to is not None and not to.is_ref() and to.value == ir.DataType.BFLOAT16:
            return True
        if any(value.dtype == ir.DataType.BFLOAT16 for value in node.outputs):
            return True
    return False


def _takes(op_type: str, place: int, opset: int) -> bool:
    """Whether an op takes bfloat16 at one of its inputs; a schema that does not tell says that it does."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return True
    return _has(schema, place)


def _has(schema: Any, place: int) -> bool:
    formal = schema.inputs[min(place, len(schema.inputs) - 1)] if schema.inputs else None
    return formal is None or _NAME in formal.types


def _first_that_takes(op_type: str, place: int, opset: int) -> int | None:
    later = (
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.domain == "" and schema.name == op_type and schema.since_version > opset and _has(schema, place)
    )
    return min(later, default=None)
