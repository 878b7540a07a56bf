"""Checks that every model that comes in is valid, as far as the package relies on it."""

from __future__ import annotations

import onnx

from onnx_cbp.validity.functions import check_functions
from onnx_cbp.validity.names import check_names
from onnx_cbp.validity.omitted import check_omitted
from onnx_cbp.validity.operators import check_operators
from onnx_cbp.validity.opsets import imported_opsets
from onnx_cbp.validity.strides import check_strides
from onnx_cbp.validity.tensors import check_tensors
from onnx_cbp.validity.texts import check_texts

__all__ = ["check", "imported_opsets"]


def check(model: onnx.ModelProto) -> bool:
    """Look a model over, without computing anything and without changing it.

    What is asked for is what ONNX asks for, and no more than ONNX Runtime asks for: the nodes of a graph may stand in
    any order, ops of other domains may have any inputs and attributes.

    Returns:
        Whether the nodes stand in an order in which they can be computed.

    Raises:
        OnnxCbpError: one line that names the place: a name that is no text, is missing, or is made twice or by nobody;
            an opset that is not imported, imported twice or not known; nodes that need each other's results; functions
            that call themselves or are called without what they need; inputs, outputs or attributes that an op does not
            have; strides of 0; a tensor whose data do not fit it.
    """
    check_texts(model)
    imports = imported_opsets(model)
    in_order = check_names(model)
    functions = check_functions(model, imports)
    check_operators(model, functions, imports)
    check_strides(model, functions)
    check_omitted(model, functions, imports)
    check_tensors(model)
    return in_order
