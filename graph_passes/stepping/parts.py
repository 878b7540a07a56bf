"""Divides the graph of an optimiser, so that it can take one part of its vectors after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_cbp.graph_passes.core.remove_unused_nodes import RemoveUnusedNodesPass

#: Each element of the result depends on the elements at its place.
_ELEMENTWISE = frozenset(
    ("Abs", "Add", "Cast", "Clip", "Div", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Sign", "Sqrt", "Sub", "Where")
)


@dataclass(frozen=True)
class Cuts:
    """What must be known of whole vectors before there are parts.

    Attributes:
        vectors: the inputs that are vectors, all of one length.
        constants: names of vectors that depend on no input.
        scalars: names of single numbers that depend on whole vectors, as a norm does.
    """

    vectors: tuple[str, ...]
    constants: tuple[str, ...]
    scalars: tuple[str, ...]


def find_cuts(graph: ir.Graph, vectors: Sequence[str]) -> Cuts | None:
    """Where to divide a graph without subgraphs; None if something of it cannot be computed in parts.

    Args:
        graph: is not changed.
        vectors: the names of the inputs that are vectors; the others are scalars.
    """
    in_parts = {value for value in graph.inputs if value.name in vectors}
    length = next(iter(in_parts)).shape
    of_vectors, of_inputs = set(in_parts), set(graph.inputs)
    constants: list[str] = []
    scalars: list[str] = []
    for node in graph:
        read = {value for value in node.inputs if value is not None}
        if node.op_type in _ELEMENTWISE and read & in_parts:
            others = [value for value in read - in_parts if value.shape is None or any(n != 1 for n in value.shape)]
            if others:
                return None
            scalars += [value.name or "" for value in node.inputs if value in (read - in_parts) & of_vectors]
            in_parts.update(node.outputs)
        elif not read & of_inputs and [value.shape for value in node.outputs] == [length]:
            constants.append(node.outputs[0].name or "")
            in_parts.update(node.outputs)
        for known in (of_vectors, of_inputs):
            if read & known:
                known.update(node.outputs)
    if any(value in of_vectors and value not in in_parts for value in graph.outputs):
        return None
    return Cuts(tuple(vectors), tuple(constants), tuple(dict.fromkeys(scalars)))


def given(name: str) -> str:
    """The name of the input of a part that stands for a constant or a scalar."""
    return f"{name}/given"


def take_whole(model: ir.Model, names: Sequence[str]) -> None:
    """Leave of a model only what computes these values, which become its outputs."""
    made = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.clear()
    model.graph.outputs.extend(made[name] for name in names)
    _tidy(model)


def take_part(model: ir.Model, cuts: Cuts) -> None:
    """Let the constants and scalars be inputs, and the vectors as long as one likes."""
    made = {value.name: value for node in model.graph for value in node.outputs}
    for name in (*cuts.constants, *cuts.scalars):
        value = ir.Value(name=given(name), type=made[name].type, shape=made[name].shape)
        made[name].replace_all_uses_with(value)
        model.graph.inputs.append(value)
    _tidy(model)
    free = {*cuts.vectors, *map(given, cuts.constants)}
    changed = {value for value in model.graph.inputs if value.name in free}
    for node in model.graph:
        if changed.intersection(node.inputs):
            changed.update(node.outputs)
    for value in changed:
        value.shape = ir.Shape(["length"])


def _tidy(model: ir.Model) -> None:
    RemoveUnusedNodesPass()(model)
    for value in list(model.graph.inputs):
        if not value.uses() and not value.is_graph_output():
            model.graph.inputs.remove(value)
