"""Takes the axes that an Einsum broadcasts out of its operands."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.splice import Names
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.equations import Equation
from onnx_cbp.graph_passes.core.wrong_shapes import drop_wrong_shapes


class SqueezeEinsumsPass(InPlacePass):
    """An operand of size 1 along a letter that has another size elsewhere loses this axis and the letter.

    onnx infers the size of the first operand that has a letter, though a 1 broadcasts: a result that has N rows is then
    known to have one. Every shape after it is wrong, and every mean. For opset 13 or newer.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place; the shapes that follow are corrected."""
        names = Names(model)
        nodes = [node for node in all_nodes(model) if (node.domain, node.op_type) == ("", "Einsum")]
        nodes = [node for node in nodes if len(node.inputs) > 1]
        if nodes:
            _infer(model)
        modified = False
        for node in nodes:  # in order: what an Einsum makes another one may read
            if _squeeze(node, Types(model), names):
                _infer(model)
                modified = True
        return PassResult(model, modified)


def _infer(model: ir.Model) -> None:
    drop_wrong_shapes(model)  # what inference meets, it keeps
    infer_shapes(model)


def _squeeze(node: ir.Node, types: Types, names: Names) -> bool:
    """Whether an operand lost an axis."""
    shapes = [None if value is None else types.shape(value) for value in node.inputs]
    given = node.attributes.get("equation")
    if given is None or given.is_ref() or given.type != ir.AttributeType.STRING:
        return False
    known = [shape for shape in shapes if shape is not None]
    equation = Equation.of(given.as_string(), [len(shape) for shape in known]) if len(known) == len(shapes) else None
    if equation is None:
        return False
    terms = list(equation.terms)
    pairs = [list(zip(term, shape, strict=True)) for term, shape in zip(terms, known, strict=True)]
    wide = {letter for pair in pairs for letter, size in pair if size != 1}
    for index, pair in enumerate(pairs):
        axes = [axis for axis, (letter, size) in enumerate(pair) if size == 1 and letter in wide]
        value = node.inputs[index]
        if not axes or value is None:
            continue
        squeezed = ir.node("Squeeze", [value, _axes(node, axes, names)], name=names.fresh(f"{value.name}/without_axes"))
        squeezed.outputs[0].name = names.fresh(squeezed.name or "")
        assert node.graph is not None
        node.graph.insert_before(node, squeezed)
        node.replace_input_with(index, squeezed.outputs[0])
        terms[index] = "".join(letter for axis, (letter, _) in enumerate(pair) if axis not in axes)
    if tuple(terms) == equation.terms:
        return False
    node.attributes["equation"] = ir.AttrString("equation", str(Equation(tuple(terms), equation.result)))
    for output in node.outputs:
        output.shape = None
    return True


def _axes(node: ir.Node, axes: list[int], names: Names) -> ir.Value:
    """A Constant before the node."""
    constant = ir.node("Constant", [], {"value": ir.tensor(np.array(axes, np.int64))}, name=names.fresh("axes"))
    constant.outputs[0].name = names.fresh(constant.name or "")
    assert node.graph is not None
    node.graph.insert_before(node, constant)
    return constant.outputs[0]
