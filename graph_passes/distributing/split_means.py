"""Writes the means in a loss as quotients of sums, which can be added over replicas."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Draft, Names, inherit
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import Reduction
from onnx_cbp.graph_passes.distributing.denominator import LEAST, denominator
from onnx_cbp.graph_passes.distributing.loss_terms import terms_of


def split_means(model: ir.Model, loss: ir.Value) -> list[ir.Value]:
    """Write each mean from which a loss is computed as a sum and what it is divided by.

    Args:
        model: a graph without gradients; it is changed in place. Values keep their names.
        loss: a value of its main graph.

    Returns:
        all these sums and denominators, scalars: `add_over_replicas` turns them into those of the whole batch.

    Raises:
        OnnxCbpError: the loss is not computed from reductions over a whole batch; one line that names the node.
    """
    names, types = Names(model), Types(model)
    sums: list[ir.Value] = []
    for term in terms_of(loss, model):
        draft = Draft(label(term.node), names, types)
        old = term.node.outputs[0]
        dtype = types.of(old) or ir.DataType.FLOAT
        total = _sum(term, dtype, draft)
        sums.append(total)
        if term.mean:
            shape = draft.constant("scalar", ir.tensor(np.array([], np.int64)))
            n = draft.cast(denominator(term, draft, types), dtype, "n_as_loss")
            (n,) = draft.add("Reshape", (n, shape), (("n_scalar", dtype, ir.Shape(())),))
            sums.append(n)
            least = draft.constant("least", ir.tensor(np.array(LEAST, dtype.numpy())))
            (divisor,) = draft.add("Max", (n, least), (("divisor", dtype, ir.Shape(())),))
            (total,) = draft.add("Div", (total, divisor), (("mean", dtype, ir.Shape(())),))
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


def _shape(value: ir.Value, draft: Draft, types: Types) -> ir.Value:
    """The shape of a value of one element, as a constant where its rank is known."""
    shape = types.shape(value)
    if shape is None:
        return draft.add("Shape", (value,), (("shape", ir.DataType.INT64, None),))[0]
    return draft.constant("shape", ir.tensor(np.ones(len(shape), np.int64)))


def _sum(term: Reduction, dtype: ir.DataType, draft: Draft) -> ir.Value:
    """The sum of a reduction, as a scalar."""
    output = (("sum", dtype, ir.Shape(())),)
    node = term.node
    if term.labels is None:
        return draft.add("ReduceSum", node.inputs[:1], output, {"keepdims": 0})[0]
    attributes = {} if term.ignore_index is None else {"ignore_index": term.ignore_index}
    return draft.add(node.op_type, node.inputs, output, {"reduction": "sum", **attributes})[0]
