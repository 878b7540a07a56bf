"""Replaces sequences by their elements if these are known."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Draft, Names, may_succeed, succeed
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input, refers_to_function_attribute

#: Since this opset, the sizes of a Split and the axes of a Squeeze are inputs.
_INPUTS_SINCE = 13
#: Parts of a value beyond which its sequence stays one.
_MOST_PARTS = 4096


class UnpackSequencesPass(InPlacePass):
    """If a constant index selects an element of a sequence, the element is read as a tensor, without the sequence.

        s = SplitToSequence(X, sizes); a = SequenceAt(s, 0); b = SequenceAt(s, 1)   ->   a, b = Split(X, sizes)
        s = SequenceConstruct(X, Y); a = SequenceAt(s, 1)                           ->   a = Identity(Y)
        s = SplitToSequence(X, sizes); y = ConcatFromSequence(s)                    ->   y = Concat(Split(X, sizes))

    PyTorch's default exporter writes `split` and `chunk` so, and ONNX Runtime's gradient builder cannot follow
    sequences. The number of elements and their sizes must be known, and nothing else may read the sequence. Values keep
    their names. It works on the main graph and its subgraphs; functions must be inlined.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        names, types, constants = Names(model), Types(model), Constants(model)
        opset = onnx_opset(model.opset_imports)
        modified = False
        for node in list(RecursiveGraphIterator(model.graph)):
            if node.domain != "" or node.op_type not in ("SplitToSequence", "SequenceConstruct"):
                continue
            chosen = _chosen(node, constants)
            draft = Draft(label(node), names, types, node.doc_string, node.metadata_props)
            elements = _elements(node, draft, types, constants, opset) if chosen else []
            if chosen and elements and all(i is None or -len(elements) <= i < len(elements) for _, i in chosen):
                _unpack(node, chosen, elements, draft, names)
                modified = True
        return PassResult(model, modified)


def _chosen(node: ir.Node, constants: Constants) -> list[tuple[ir.Node, int | None]]:
    """The nodes that select an element (and which one), or join all (None); [] if the sequence has any other reader."""
    (sequence,) = node.outputs
    chosen: list[tuple[ir.Node, int | None]] = []
    for use in sequence.uses():
        reader = use.node
        if _joins(reader):
            chosen.append((reader, None))
            continue
        index = constants.whole(optional_input(reader, 1)) if use.idx == 0 else None
        if (reader.domain, reader.op_type) != ("", "SequenceAt") or index is None or index.size != 1:
            return []
        chosen.append((reader, int(index.reshape(()))))
    return [] if sequence.is_graph_output() else chosen


def _joins(node: ir.Node) -> bool:
    """Whether a node joins a sequence as Concat joins its elements."""
    if (node.domain, node.op_type) != ("", "ConcatFromSequence") or refers_to_function_attribute(node):
        return False
    return "axis" in node.attributes and not attribute(node, "new_axis", 0)


def _elements(node: ir.Node, draft: Draft, types: Types, constants: Constants, opset: int) -> list[ir.Value]:
    """The elements of the sequence that a node makes, computed by nodes of the draft; [] if they are not known."""
    if node.op_type == "SequenceConstruct":
        return [value for value in node.inputs if value is not None]
    X = optional_input(node, 0)
    sizes = None if X is None or refers_to_function_attribute(node) else _sizes(node, X, types, constants)
    if X is None or not sizes:
        return []
    axis = int(attribute(node, "axis", 0))
    if X.shape is not None and not -len(X.shape) <= axis < len(X.shape):
        return []
    lengths = ir.tensor(np.array(sizes, np.int64))
    shape = None if X.shape is None else list(X.shape)
    parts = []
    for index, size in enumerate(sizes):
        if shape is not None:
            shape[axis] = size
        parts.append((f"part{index}", types.of(X), None if shape is None else ir.Shape(shape)))
    if opset >= _INPUTS_SINCE:
        elements = list(draft.add("Split", (X, draft.constant("sizes", lengths)), parts, {"axis": axis}))
    else:
        elements = list(draft.add("Split", (X,), parts, {"axis": axis, "split": sizes}))
    if optional_input(node, 1) is not None or attribute(node, "keepdims", 1):
        return elements
    return [_squeezed(part, axis, draft, opset) for part in elements]


def _sizes(node: ir.Node, X: ir.Value, types: Types, constants: Constants) -> list[int] | None:
    """The lengths of the parts that a SplitToSequence makes; None if they are not known."""
    given = optional_input(node, 1)
    split = np.array(1) if given is None else constants.whole(given)
    if split is None or (split < 0).any() or split.ndim > 1 or split.size > _MOST_PARTS:
        return None
    if split.ndim == 1:
        return [int(size) for size in split]
    axis, shape = int(attribute(node, "axis", 0)), types.shape(X)
    whole = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    part = int(split)
    if not isinstance(whole, int) or part == 0 or whole // part > _MOST_PARTS:
        return None
    return [min(part, whole - begin) for begin in range(0, whole, part)]


def _squeezed(part: ir.Value, axis: int, draft: Draft, opset: int) -> ir.Value:
    axes = np.array([axis], np.int64)
    shape = None
    if part.shape is not None:
        dims = list(part.shape)
        del dims[axis]
        shape = ir.Shape(dims)
    made = ((f"{part.name}_squeezed", part.dtype, shape),)
    if opset >= _INPUTS_SINCE:
        return draft.add("Squeeze", (part, draft.constant("axes", ir.tensor(axes))), made)[0]
    return draft.add("Squeeze", (part,), made, {"axes": [axis]})[0]


def _unpack(
    node: ir.Node, chosen: list[tuple[ir.Node, int | None]], elements: list[ir.Value], draft: Draft, names: Names
) -> None:
    """Let the elements replace what is read from the sequence."""
    assert node.graph is not None
    node.graph.insert_before(node, draft.nodes)
    free = {value for made in draft.nodes for value in made.outputs}  # they have no names yet
    for reader, index in chosen:
        (old,) = reader.outputs
        assert reader.graph is not None
        if index is None:
            name = names.fresh(f"{label(reader)}/Concat")
            joined = ir.node("Concat", elements, {"axis": int(attribute(reader, "axis", 0))}, name=name)
            reader.graph.insert_before(reader, joined)
            succeed(old, joined.outputs[0])
            reader.graph.remove(reader, safe=True)
            continue
        element = elements[index]
        if element in free and reader.graph is node.graph and may_succeed(old, element):
            free.remove(element)
            succeed(old, element)
        else:
            copy = ir.node("Identity", [element], name=names.fresh(f"{label(reader)}/Identity"))
            reader.graph.insert_before(reader, copy)
            succeed(old, copy.outputs[0])
        reader.graph.remove(reader, safe=True)
    node.graph.remove(node, safe=True)
