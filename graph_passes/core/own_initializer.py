"""Turns a constant into its own initializer, since only initializers can be parameters and be updated."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.core.values.constants import Constants


def own_initializer(value: ir.Value, model: ir.Model, constants: Constants | None = None) -> ir.Value:
    """The initializer that replaces a value which is a Constant node, or a copy of an initializer.

    Exporters merge equal initializers, and the statistics of a fresh model are equal. The new initializer has the
    value's name, uses and shape.

    Args:
        value: a value of the main graph.
        model: the model; it is changed in place.
        constants: also accept what a few nodes compute from constants.

    Returns:
        The initializer; the value itself if it is one already, or is not constant.
    """
    node = value.producer()
    if node is None or node.graph is not model.graph or value.is_graph_output():
        return value
    tensor = _tensor(value, constants)
    if tensor is None:
        return value
    name, value.name = value.name, None
    assert name is not None
    # Its own tensor: the name of an initializer is written into its tensor, which may belong to another initializer, or
    # to the caller's model.
    own = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    shape = ir.Shape(own.shape.numpy())
    initializer = ir.Value(name=name, type=ir.TensorType(own.dtype), shape=shape, const_value=own)
    value.replace_all_uses_with(initializer)
    model.graph.remove(node, safe=True)
    model.graph.register_initializer(initializer)
    return initializer


def _tensor(value: ir.Value, constants: Constants | None) -> ir.TensorProtocol | None:
    """The tensor of a Constant node or of an initializer, also behind Identity nodes; None if there is none."""
    made = value
    while (copy := made.producer()) is not None and (copy.domain, copy.op_type) == ("", "Identity"):
        if copy.inputs[0] is None:
            return None
        made = copy.inputs[0]
    if made.is_graph_input():  # another value may be fed
        return None
    node = made.producer()
    if node is None or (node.domain, node.op_type) == ("", "Constant"):
        return ir.convenience.get_const_tensor(made)
    array = None if constants is None else constants.of(value)
    return None if array is None else ir.tensor(array)
