"""Turns a constant into an initializer of its own, since only those can be parameters and be updated."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.core.values.constants import Constants


def own_initializer(value: ir.Value, model: ir.Model, constants: Constants | None = None) -> ir.Value:
    """The initializer that takes the place of a value that is a Constant node, or a copy of an initializer.

    Exporters merge initializers that are equal, as the statistics of a fresh model are. The new one has the value's
    name, uses and shape.

    Args:
        value: a value of the main graph.
        model: the model; it is changed in place.
        constants: take what a few nodes compute of constants, too.

    Returns:
        The initializer; the value itself where it is one, or no constant.
    """
    node = value.producer()
    if node is None or node.graph is not model.graph or value.is_graph_output():
        return value
    tensor = _tensor(value, constants)
    if tensor is None:
        return value
    name, value.name = value.name, None
    assert name is not None
    # A tensor of its own: what an initializer is named is written into its tensor, which may be that of another, or of
    # the caller's model.
    own = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    shape = ir.Shape(own.shape.numpy())
    initializer = ir.Value(name=name, type=ir.TensorType(own.dtype), shape=shape, const_value=own)
    value.replace_all_uses_with(initializer)
    model.graph.remove(node, safe=True)
    model.graph.register_initializer(initializer)
    return initializer


def _tensor(value: ir.Value, constants: Constants | None) -> ir.TensorProtocol | None:
    """The tensor of a Constant node or of an initializer, seen through Identity nodes; None where there is none."""
    made = value
    while (copy := made.producer()) is not None and (copy.domain, copy.op_type) == ("", "Identity"):
        if copy.inputs[0] is None:
            return None
        made = copy.inputs[0]
    if made.is_graph_input():  # what is fed may be something else
        return None
    node = made.producer()
    if node is None or (node.domain, node.op_type) == ("", "Constant"):
        return ir.convenience.get_const_tensor(made)
    array = None if constants is None else constants.of(value)
    return None if array is None else ir.tensor(array)
