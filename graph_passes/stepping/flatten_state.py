"""Packs the state of a graph into a few vectors: so there are fewer values to bind, and a small optimiser graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.splice import Draft, Names
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.stepping.training_graph import TrainingGraph
from onnx_cbp.graph_passes.stepping.vector_layout import VectorLayout


def own(name: str) -> str:
    """The name of a state of training in a graph, which cannot collide with names of the network."""
    return f"onnx_cbp.{name}"


PARAMETERS, STATISTICS, GRADIENTS = own("parameters"), own("statistics"), own("gradients")
LAZY_RESET_GRAD = own("lazy_reset_grad")


def following(name: str) -> str:
    """The name of the output that is the next value of an input."""
    return f"{name}.next"


class FlattenStatePass(InPlacePass):
    """Turns every group of tensors into one vector, as input and as output.

        weight, bias = Split(onnx_cbp.parameters), each reshaped
        onnx_cbp.statistics.next = Concat(mean_updated, var_updated, ...)
        onnx_cbp.gradients.next = Concat(weight_grad, bias_grad, ...) + (lazy_reset_grad ? 0 : onnx_cbp.gradients)

    Other values that a step changes keep their names, and the next value has ".next" after the name. All other outputs
    stay in front, in order. Inputs outside the groups stay. Names in the groups that the graph does not have are
    ignored, so an evaluation graph can be fed with the same vectors. Without a group of parameters, the gradients stay
    outputs of their own.

    Args:
        groups: layouts, by the name of the vector.
        graph: the roles of a training graph; None for an evaluation graph.
    """

    def __init__(self, groups: Mapping[str, VectorLayout], graph: TrainingGraph | None = None) -> None:
        super().__init__()
        self._groups = groups
        self._graph = graph

    def call(self, model: ir.Model) -> PassResult:
        """Flatten in place."""
        draft = Draft("state", Names(model), Types(model))
        outputs = {value.name: value for value in model.graph.outputs}
        for name, layout in self._groups.items():
            _split(model.graph, name, layout, draft)
        if draft.nodes:
            first = next(iter(model.graph))
            model.graph.insert_before(first, draft.nodes)
        if self._graph is not None:
            self._join(model, self._graph, outputs)
        return PassResult(model, modified=True)

    def _join(self, model: ir.Model, graph: TrainingGraph, outputs: Mapping[str | None, ir.Value]) -> None:
        draft = Draft("state", Names(model), Types(model))
        state = {*graph.gradients.values(), *graph.updates.values()}
        kept = [value for value in model.graph.outputs if value.name not in state]
        model.graph.outputs.clear()
        model.graph.outputs.extend(kept)
        updates = dict(graph.updates)
        for name, layout in self._groups.items():
            moved = [outputs[updates.pop(each)] for each in layout.shapes if each in updates]
            if moved:
                _output(model.graph, name, _concat(draft, moved, layout), draft)
        for name, update in updates.items():
            _output(model.graph, name, outputs[update], draft)
        if graph.gradients and PARAMETERS not in self._groups:
            model.graph.outputs.extend(outputs[each] for each in graph.gradients.values())
        elif graph.gradients:
            layout = self._groups[PARAMETERS]
            dtype, shape = ir.DataType.from_numpy(layout.dtype), ir.Shape([layout.total])
            new = _concat(draft, [outputs[graph.gradients[each]] for each in layout.shapes], layout)
            before = _input(model.graph, GRADIENTS, dtype, [layout.total])
            reset = _input(model.graph, LAZY_RESET_GRAD, ir.DataType.BOOL, [])
            zero = draft.constant("zero", ir.tensor(np.zeros((), layout.dtype)))
            (kept_gradients,) = draft.add("Where", (reset, zero, before), (("kept_gradients", dtype, shape),))
            (total,) = draft.add("Add", (kept_gradients, new), (("gradients", dtype, shape),))
            _output(model.graph, GRADIENTS, total, draft)
        model.graph.extend(draft.nodes)


def _split(graph: ir.Graph, name: str, layout: VectorLayout, draft: Draft) -> None:
    old = {value.name: value for value in graph.inputs}
    if not any(each in old for each in layout.shapes):
        return
    dtype = ir.DataType.from_numpy(layout.dtype)
    vector = _input(graph, name, dtype, [layout.total])
    pieces: Sequence[ir.Value] = (vector,)
    if len(layout.shapes) > 1:
        lengths = draft.constant("sizes", ir.tensor(np.array(layout.sizes, np.int64)))
        outputs = [("piece", dtype, ir.Shape([size])) for size in layout.sizes]
        pieces = draft.add("Split", (vector, lengths), outputs, {"axis": 0})
    for (each, shape), piece in zip(layout.shapes.items(), pieces, strict=True):
        value = old.get(each)
        if value is None:
            continue
        if len(shape) != 1:
            size = draft.constant("shape", ir.tensor(np.array(shape, np.int64)))
            zero_is_a_size = {"allowzero": 1} if 0 in shape else None  # opset 13 does not have this attribute
            (piece,) = draft.add("Reshape", (piece, size), (("shaped", dtype, ir.Shape(shape)),), zero_is_a_size)
        graph.inputs.remove(value)
        value.replace_all_uses_with(piece, replace_graph_outputs=True)


def _concat(draft: Draft, values: Sequence[ir.Value], layout: VectorLayout) -> ir.Value:
    dtype = ir.DataType.from_numpy(layout.dtype)
    minus_one = draft.constant("vector", ir.tensor(np.array([-1], np.int64)))
    flat = [draft.add("Reshape", (value, minus_one), (("flat", dtype, None),))[0] for value in values]
    if len(flat) == 1:
        return flat[0]
    return draft.add("Concat", flat, (("joined", dtype, ir.Shape([layout.total])),), {"axis": 0})[0]


def _input(graph: ir.Graph, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    graph.inputs.append(value)
    return value


def _output(graph: ir.Graph, name: str, value: ir.Value, draft: Draft) -> None:
    if value.producer() is None or value.is_graph_output():
        (value,) = draft.add("Identity", (value,), (("copy", value.dtype, value.shape),))
    value.name = following(name)
    graph.outputs.append(value)
