"""By what the mean in a loss is divided."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.splice import Draft
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.dialects import Reduction

#: What divides where nothing counts, as with ignored labels alone: the sum is 0 there, and so is the loss.
LEAST = 1e-30


def denominator(term: Reduction, draft: Draft, types: Types) -> ir.Value:
    """The divisor of the mean, as double [1]."""
    if term.labels is not None and (term.ignore_index is not None or term.weights is not None):
        return vector(_weigh_labels(term, term.labels, draft, types), draft, "n")
    counted = term.elements if term.labels is None else term.labels
    if counted is None:
        return draft.constant("n", ir.tensor(np.array([1.0])))
    (size,) = draft.add("Size", (counted,), (("size", ir.DataType.INT64, ir.Shape(())),))
    return vector(size, draft, "n")


def _weigh_labels(term: Reduction, labels: ir.Value, draft: Draft, types: Types) -> ir.Value:
    """The number of labels that are not ignored, or the sum of their weights."""
    kind = ir.DataType.INT64  # that of ignore_index: a label of a smaller type may never be as large
    labels = draft.cast(labels, kind, "labels")
    counts: ir.Value | None = None
    if term.ignore_index is not None:
        ignored = draft.constant("ignore_index", ir.tensor(np.array(term.ignore_index, kind.numpy())))
        (is_ignored,) = draft.add("Equal", (labels, ignored), (("is_ignored", ir.DataType.BOOL, labels.shape),))
        (is_counted,) = draft.add("Not", (is_ignored,), (("is_counted", ir.DataType.BOOL, labels.shape),))
        counts = draft.cast(is_counted, ir.DataType.DOUBLE, "counted")
        if term.weights is not None:  # an ignored label need not be a class
            zero = draft.constant("any_class", ir.tensor(np.array(0, kind.numpy())))
            (labels,) = draft.add("Where", (is_ignored, zero, labels), (("classes", kind, labels.shape),))
    if term.weights is not None:
        (weights,) = draft.add(
            "Gather", (term.weights, labels), (("weights", types.of(term.weights), labels.shape),), {"axis": 0}
        )
        weights = draft.cast(weights, ir.DataType.DOUBLE, "weights_double")
        if counts is not None:
            (weights,) = draft.add("Mul", (weights, counts), (("weighted", ir.DataType.DOUBLE, labels.shape),))
        counts = weights
    assert counts is not None
    return draft.add("ReduceSum", (counts,), (("n", ir.DataType.DOUBLE, ir.Shape(())),), {"keepdims": 0})[0]


def vector(value: ir.Value, draft: Draft, suffix: str) -> ir.Value:
    """One value as double [1]."""
    one = ir.Shape((1,))
    shape = draft.constant(f"{suffix}_shape", ir.tensor(np.array([1], np.int64)))
    (flat,) = draft.add("Reshape", (value, shape), ((f"{suffix}_vector", value.dtype, one),))
    return draft.cast(flat, ir.DataType.DOUBLE, f"{suffix}_double")
