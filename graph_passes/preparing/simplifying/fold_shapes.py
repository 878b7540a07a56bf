"""Computes values that depend only on fixed sizes, even if other sizes of the same shape are not fixed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Names, is_used, succeed
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.preparing.simplifying.fold_constants import FoldConstantsPass

_MOST_ROUNDS = 16  # each round folds one more Shape that depends on another
_MOST_SIZES = 1024  # shapes, and what is computed from them, have a few


class FoldShapesPass(InPlacePass):
    """Turns fixed sizes that a graph reads from a shape with a symbolic batch into constants.

        Gather(Shape(x), 1) with x [N, 8, 5, 5]  ->  8

    PyTorch's older exporter computes the sizes of chunks, paddings and views so, and inference does not follow: after a
    Slice with computed ends, shapes are unknown. Afterwards, values get the types and shapes that inference then finds.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Fold in place."""
        modified = False
        for _ in range(_MOST_ROUNDS):
            infer_shapes(model)
            folded = FoldConstantsPass()(model).modified
            folded |= _fold_sizes(model)
            if not folded:
                break
            modified = True
        return PassResult(model, modified)


def _fold_sizes(model: ir.Model) -> bool:
    """One round; returns whether anything was folded."""
    constants, names = Constants(model), Names(model)
    known: dict[ir.Value, np.ndarray] = {}
    read: list[ir.Node] = []
    folded = False
    for node in list(model.graph):
        if node.domain != "" or node.op_type == "Constant" or len(node.outputs) != 1:
            continue
        if node.op_type == "Reshape":
            _find_the_rest(node, known)
        sizes = _sizes(node, known, constants)
        if sizes is None:
            continue
        (output,) = node.outputs
        if all(isinstance(size, int) for size in sizes.reshape(-1)) and not output.is_graph_output():
            _replace(node, sizes.astype(np.int64), names)
            folded = True
        else:
            known[output] = sizes
            read.append(node)
    for node in reversed(read) if folded else ():
        if not is_used(node.outputs[0]):
            model.graph.remove(node, safe=True)
    return folded


def _find_the_rest(node: ir.Node, known: dict[ir.Value, np.ndarray]) -> None:
    """Complete the shape of a view whose -1 is a number: what is left when the symbols on both sides cancel."""
    data, sizes = node.inputs[0], known.get(node.inputs[1]) if node.inputs[1] is not None else None
    if data is None or data.shape is None or sizes is None or attribute(node, "allowzero", 0):
        return
    before = [size if isinstance(size, int) else size.value for size in data.shape.dims]
    after = list(sizes)
    if after.count(-1) != 1 or None in before + after or 0 in before + after:
        return
    symbols = [sorted(size for size in each if isinstance(size, str)) for each in (before, after)]
    numbers = [math.prod(size for size in each if isinstance(size, int) and size > 0) for each in (before, after)]
    if symbols[0] == symbols[1] and numbers[0] % numbers[1] == 0:
        rest = numbers[0] // numbers[1]
        node.outputs[0].shape = ir.Shape([rest if size == -1 else size for size in after])
        node.outputs[0].type = node.outputs[0].type or data.type


def _replace(node: ir.Node, sizes: np.ndarray, names: Names) -> None:
    """Replace a node by a Constant, with which `FoldConstantsPass` can compute."""
    graph = node.graph
    assert graph is not None
    tensor = ir.tensor(sizes)
    constant = ir.node("Constant", [], {"value": tensor}, name=names.fresh(f"{label(node)}/Constant"))
    (value,) = constant.outputs
    value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(sizes.shape)
    graph.insert_before(node, constant)
    succeed(node.outputs[0], value)
    graph.remove(node, safe=True)


def _sizes(node: ir.Node, known: dict[ir.Value, np.ndarray], constants: Constants) -> np.ndarray | None:
    """The sizes that a node computes: an array of numbers, symbols, and None for what is not known."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Shape":
        if first is None or first.shape is None:
            return None
        ends = [node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end")]
        return _array([size if isinstance(size, int) else size.value for size in first.shape.dims[slice(*ends)]])
    if node.op_type == "Concat":
        parts = [_read(value, known, constants) for value in node.inputs]
        if any(part is None or part.ndim != 1 for part in parts):
            return None
        return np.concatenate([part for part in parts if part is not None])
    data = None if first is None else known.get(first)
    if data is None:
        # Only sizes are computed: other values may be whole weights, which would be computed again in every round.
        if node.outputs[0].dtype not in (None, ir.DataType.INT64):
            return None
        array = constants.of(node.outputs[0])
        return _of_numbers(array) if array is not None and array.dtype == np.int64 else None
    others = [constants.whole(optional_input(node, index)) for index in range(1, len(node.inputs))]
    match node.op_type:
        case "Identity":
            return data
        case "Cast":
            return data if attribute(node, "to", 0) in (ir.DataType.INT64, ir.DataType.INT32) else None
        case "Gather" if others[0] is not None and attribute(node, "axis", 0) == 0 and data.ndim == 1:
            there = (-data.size <= others[0]) & (others[0] < data.size)
            return _array(data[others[0]], others[0].ndim) if there.all() else None
        case "Squeeze" if data.shape == (1,):
            return data.reshape(())
        case "Unsqueeze" if data.ndim == 0:
            return data.reshape(1)
        case "Reshape" if others[0] is not None and data.size == 1 and others[0].size <= 1:
            return data.reshape(others[0].size * (1,))
        case "Slice" if data.ndim == 1 and all(each is not None and each.size == 1 for each in others):
            start, end, *more = (int(each.reshape(())) for each in others if each is not None)
            step = more[1] if len(more) > 1 else 1
            return data[start:end:step] if step else None
    return None


def _read(value: ir.Value | None, known: dict[ir.Value, np.ndarray], constants: Constants) -> np.ndarray | None:
    if value in known:
        return known[value]
    array = constants.of(value)
    return _of_numbers(array) if array is not None and array.dtype.kind == "i" else None


def _of_numbers(array: np.ndarray) -> np.ndarray | None:
    """Integers as sizes. Tables of indices, which may be large, are not sizes."""
    return _array(array.tolist(), array.ndim) if array.size <= _MOST_SIZES else None


def _array(sizes: Any, ndim: int = 1) -> np.ndarray:
    """An array of objects; a scalar stays one."""
    if ndim == 0:
        result = np.empty((), object)
        result[()] = sizes
        return result
    return np.asarray(sizes, object)
