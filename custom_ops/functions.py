"""Function bodies: the ops in standard ONNX, for runtimes without our library."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.parser

from onnx_cbp.custom_ops.bodies import MIXED_TYPES_OPSET, OLDEST_OPSET
from onnx_cbp.custom_ops.operator import DOMAIN, Operator
from onnx_cbp.errors import OnnxCbpError


def make_function(operator: Operator, opset: int, known: Mapping[str, int] | None = None) -> onnx.FunctionProto:
    """The body of an op for a model that imports `opset` of the default domain.

    `known` are those of the op's `choices` that have one value in all nodes of the model: the body is for these values.

    Below opset 15, which introduced CastLike, the body serves only float data with float statistics. From then on, it
    serves all types, but it computes in the type of the statistics: no op of ONNX finds the wider of two types. So
    double data with float statistics lose digits.

    Raises:
        OnnxCbpError: the opset is older than 13, the oldest for which bodies are written, or the op has no body.
    """
    if operator.body is None:
        raise OnnxCbpError(
            f"{operator} has no function body: standard ONNX has no collectives, and where the library is missing a "
            "model must fail and not train unsynchronised; rewrite it without 'portable' or without 'synchronize'"
        )
    if opset < OLDEST_OPSET:
        raise OnnxCbpError(
            f"function bodies need opset {OLDEST_OPSET} or newer, the model imports opset {opset}: convert it with "
            "onnx.version_converter, or rewrite it without 'portable'"
        )
    results = {t.name for t in operator.outputs}
    # Each name means one value: an input with the name of an output is renamed in the body.
    inputs = ", ".join(f"{t.name}_in" if t.name in results else t.name for t in operator.inputs)
    outputs = ", ".join(t.name for t in operator.outputs)
    attributes = ", ".join(a.name for a in operator.attributes)
    attributes = f"<{attributes}> " if attributes else ""
    function = onnx.parser.parse_function(
        f'<opset_import: ["" : {opset}], domain: "{DOMAIN}">\n'
        f"{operator.name} {attributes}({inputs}) => ({outputs}) {{{operator.body(opset, **(known or {}))}}}"
    )
    function.doc_string = operator.doc
    return function


def serves_mixed_types(opset: int) -> bool:
    """Whether bodies of this opset serve more types than float."""
    return opset >= MIXED_TYPES_OPSET
