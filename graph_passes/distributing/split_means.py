"""Writes the means in a loss as quotients of sums, which can be added over replicas."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Draft, Names, inherit
from onnx_cbp.graph_passes.core.types import FLOATS, Types
from onnx_cbp.graph_passes.core.values.ancestry import made_from
from onnx_cbp.graph_passes.dialects import Reduction
from onnx_cbp.graph_passes.dialects._reading import attribute, reduced_axes
from onnx_cbp.graph_passes.distributing.denominator import LEAST, denominator
from onnx_cbp.graph_passes.distributing.loss_parts import Readers, loss_parts

_AXES_INPUT_SINCE = 13


def split_means(model: ir.Model, loss: ir.Value, trained: Collection[ir.Value] = ()) -> list[ir.Value]:
    """Write each mean from which a loss is computed as a sum and what it is divided by.

    What all replicas have alike, such as a penalty on weights or a learned weight of a loss, is written as a mean over
    the replicas: each has a part of its gradient then, and the parts add up to the whole.

    Args:
        model: a graph without gradients; it is changed in place. Values keep their names.
        loss: a value of its main graph.
        trained: the parameters that train, initializers of its main graph.

    Returns:
        all these sums and denominators, of known shapes: `add_over_replicas` turns them into those of the whole batch.

    Raises:
        OnnxCbpError: the loss is not computed from reductions over a whole batch; one line that names the node.
    """
    names, types = Names(model), Types(model)
    parts = loss_parts(loss, model, _alike(model, types, trained), vectors=True)
    sums: list[ir.Value] = []
    for term in parts.reductions:
        sums += _split(term, model, names, types)
    for value, readers in parts.alike.items():
        sums += _share(value, readers, model.graph, Draft(f"{value.name}/alike", names, types), types)
    for value, (readers, counting) in parts.sizes.items():
        sums.append(_count_all(value, readers, counting, model.graph, Draft(f"{value.name}/all", names, types)))
    return sums


def _alike(model: ir.Model, types: Types, trained: Collection[ir.Value]) -> set[ir.Value]:
    """The values that are the same on all replicas: parameters that train, and what is made of no input."""
    fed = made_from(model.graph, [value for value in model.graph.inputs if not value.is_initializer()])
    made = {value for node in model.graph if node.op_type != "Constant" for value in node.outputs}
    return {*trained, *(value for value in made - fed if types.of(value) in FLOATS)}


def _split(term: Reduction, model: ir.Model, names: Names, types: Types) -> list[ir.Value]:
    """Write one mean, or one sum, so; the sum, and what divides a mean."""
    draft = Draft(label(term.node), names, types)
    old = term.node.outputs[0]
    dtype = types.of(old) or ir.DataType.FLOAT
    left = _elements_left(term, types)
    total = _sum(term, dtype, left, onnx_opset(model.opset_imports), draft, types)
    sums = [total]
    if term.mean:
        shape = draft.constant("scalar", ir.tensor(np.array([], np.int64)))
        n = denominator(term, draft, types)
        if left != 1:
            elements = draft.constant("left", ir.tensor(np.array([left], np.float64)))
            (n,) = draft.add("Div", (n, elements), (("n_each", ir.DataType.DOUBLE, ir.Shape((1,))),))
        n = draft.cast(n, dtype, "n_as_loss")
        (n,) = draft.add("Reshape", (n, shape), (("n_scalar", dtype, ir.Shape(())),))
        sums.append(n)
        least = draft.constant("least", ir.tensor(np.array(LEAST, dtype.numpy())))
        (divisor,) = draft.add("Max", (n, least), (("divisor", dtype, ir.Shape(())),))
        (total,) = draft.add("Div", (total, divisor), (("mean", dtype, total.shape),))
    as_before = _shape(old, draft, types)
    (new,) = draft.add("Reshape", (total, as_before), (("as_before", dtype, old.shape),))
    readers = [(use.node, use.idx) for use in old.uses() if use.node in draft.nodes]
    inherit(old, new)
    for node, index in readers:
        node.replace_input_with(index, old)
    model.graph.insert_after(term.node, draft.nodes)
    name, old.name = old.name, names.fresh(f"{label(term.node)}/own")
    new.name = name
    return sums


def _share(value: ir.Value, readers: Readers, graph: ir.Graph, draft: Draft, types: Types) -> list[ir.Value]:
    """Let nodes read the mean over all replicas of a value that is the same on all; its sum and their number."""
    shape, dtype = types.shape(value), types.of(value)
    if shape is None or dtype is None or not all(isinstance(size, int) for size in shape):
        raise OnnxCbpError(
            f"node '{label(readers[0][0])}': the shape of '{value.name}' is not known, which the loss is computed "
            "from: data_parallel needs it"
        )
    of_value = ir.Shape(shape)
    (own,) = draft.add("Identity", (value,), (("sum", dtype, of_value),))
    n = draft.constant("n", ir.tensor(np.array(1, dtype.numpy())))
    least = draft.constant("least", ir.tensor(np.array(LEAST, dtype.numpy())))  # if no replica has samples
    (divisor,) = draft.add("Max", (n, least), (("divisor", dtype, ir.Shape(())),))
    (mean,) = draft.add("Div", (own, divisor), (("mean", dtype, of_value),))
    for node, index in readers:
        node.replace_input_with(index, mean)
    maker = value.producer()
    if maker is None:
        graph.insert_before(graph[0], draft.nodes)
    else:
        graph.insert_after(maker, draft.nodes)
    return [own, n]


def _count_all(value: ir.Value, readers: Readers, counting: tuple[int, ...], graph: ir.Graph, draft: Draft) -> ir.Value:
    """Let nodes read a size with the samples of all replicas; the sum from which it is made."""
    maker = value.producer()
    assert maker is not None
    kind, of_value = ir.DataType.INT64, ir.Shape(() if maker.op_type == "Size" else (len(counting),))
    counted = np.array(counting, np.int64).reshape(of_value.numpy())
    of_samples, others = (draft.constant(name, ir.tensor(x)) for name, x in (("is", counted), ("not", 1 - counted)))
    (own,) = draft.add("Mul", (value, of_samples), (("sum", kind, of_value),))
    (rest,) = draft.add("Mul", (value, others), (("rest", kind, of_value),))
    (whole,) = draft.add("Add", (own, rest), (("whole", kind, of_value),))
    for node, index in readers:
        node.replace_input_with(index, whole)
    graph.insert_after(maker, draft.nodes)
    return own


def _elements_left(term: Reduction, types: Types) -> int:
    """How many elements a reduction leaves."""
    if term.labels is not None:
        return 1
    shape = types.shape(term.node.outputs[0]) or ()
    return math.prod(size for size in shape if isinstance(size, int))


def _shape(value: ir.Value, draft: Draft, types: Types) -> ir.Value:
    """The shape of a reduction's result, as a constant where it is known."""
    shape = types.shape(value)
    if shape is None:
        return draft.add("Shape", (value,), (("shape", ir.DataType.INT64, None),))[0]
    sizes = [size if isinstance(size, int) else 1 for size in shape]
    return draft.constant("shape", ir.tensor(np.array(sizes, np.int64)))


def _sum(term: Reduction, dtype: ir.DataType, left: int, opset: int, draft: Draft, types: Types) -> ir.Value:
    """The sum of a reduction: a scalar, or of the reduction's shape if that leaves several elements."""
    output = (("sum", dtype, ir.Shape(())),)
    node = term.node
    if term.labels is not None:
        attributes = {} if term.ignore_index is None else {"ignore_index": term.ignore_index}
        return draft.add(node.op_type, node.inputs, output, {"reduction": "sum", **attributes})[0]
    if left == 1:
        return draft.add("ReduceSum", node.inputs[:1], output, {"keepdims": 0})[0]
    axes, keepdims = list(reduced_axes(node) or ()), attribute(node, "keepdims", 1)
    output = (("sum", dtype, ir.Shape(types.shape(node.outputs[0]) or ())),)
    if opset < _AXES_INPUT_SINCE:
        return draft.add("ReduceSum", node.inputs[:1], output, {"axes": axes, "keepdims": keepdims})[0]
    given = draft.constant("axes", ir.tensor(np.array(axes, np.int64)))
    return draft.add("ReduceSum", (node.inputs[0], given), output, {"keepdims": keepdims})[0]
