"""Joins an optimiser with a training graph, so that forward pass, backward pass and update are one run."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnx_cbp.graph_passes.core.splice import Names


def join(model: ir.Model, following: ir.Model, fed: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """Append the nodes of one graph to another.

    Args:
        model: changed in place: it gets the nodes and constants, and as new inputs those of `following` that are not
            fed.
        following: is not changed; it must have no subgraphs, and the opset of `model`.
        fed: values of `model`, by the names of inputs of `following`.

    Returns:
        The values for the outputs of `following`, by name; they are not yet outputs of `model`.
    """
    names = Names(model)
    new: dict[ir.Value | None, ir.Value | None] = {None: None}
    for value in following.graph.inputs:
        if value.name is not None and value.name in fed:
            new[value] = fed[value.name]
        else:
            new[value] = ir.Value(name=value.name, type=value.type, shape=value.shape)
            model.graph.inputs.append(new[value])  # type: ignore[arg-type]
    for value in following.graph.initializers.values():
        assert value.const_value is not None
        name = names.fresh(value.name or "constant")
        own = ir.Value(
            name=name,
            type=value.type,
            shape=value.shape,
            const_value=ir.tensor(value.const_value.numpy(), dtype=value.const_value.dtype, name=name),
        )
        model.graph.register_initializer(own)
        new[value] = own
    for node in following.graph:
        outputs = [ir.Value(name=names.fresh(v.name or "value"), type=v.type, shape=v.shape) for v in node.outputs]
        new.update(zip(node.outputs, outputs, strict=True))
        model.graph.append(
            ir.Node(
                node.domain,
                node.op_type,
                [new[value] for value in node.inputs],
                list(node.attributes.values()),
                outputs=outputs,
                name=names.fresh(node.name or node.op_type),
            )
        )
    results: dict[str, ir.Value] = {}
    for value in following.graph.outputs:
        result = new[value]
        assert result is not None
        results[value.name or ""] = result
    return results
