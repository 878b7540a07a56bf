"""Makes Dropout masks depend on a number that is fed, so that training can resume bit for bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.graph_passes.core.splice import Draft, Names, Splice
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.stepping.training_graph import RANDOM_MASK

_INT64, _UINT64 = ir.DataType.INT64, ir.DataType.UINT64
_SCALAR = ir.Shape([])
#: 2^64 divided by the golden ratio, and two other irregular odd numbers (those of SplitMix64, Steele et al. 2014).
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_NO_NUMBERS = "OSUc"  # kinds of numpy's types
_BITS = 24  # as many as a float can hold


class RandomMasksPass(InPlacePass):
    """Every Dropout that trains multiplies by a mask that depends on the input `random_state` and the element's index.

        key = random_state * a + layer * b + c, made odd
        bits = squares(element, key)        two rounds of Widynski's "Squares" (2020), on int64, which wraps around
        Y = X * (bits / 2^24 >= ratio) / (1 - ratio)
        random_state_updated = random_state + 1

    Squares needs no Xor, which ONNX has only from opset 18 on. ONNX Runtime's own Dropout uses a generator that no
    caller can read or set. A Dropout that does not train lets everything through, and is removed. One whose mask is
    read, or whose mode is known only at run time, stays.

    Attributes:
        state: the names of the input and of the output with its next value; None if no Dropout trains.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state: tuple[str, str] | None = None

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite in place."""
        names, types, constants = Names(model), Types(model), Constants(model)
        state: ir.Value | None = None
        modified, layer = False, 0
        for node in list(model.graph):
            if node.op_type != "Dropout" or node.domain != "" or len(node.outputs) > 1:
                continue
            ratio = _constant(node, 1, 0.5, constants)
            trains = _constant(node, 2, False, constants)
            if ratio is None or trains is None:
                continue
            if trains and ratio and state is None:
                state = ir.Value(name=names.fresh("random_state"), type=ir.TensorType(_INT64), shape=ir.Shape([1]))
            splice = Splice(node, names, types)
            X = node.inputs[0]
            assert X is not None
            if trains and ratio:
                assert state is not None
                layer += 1
                Y = _masked(splice, X, state, float(ratio), layer, types)
            else:
                (Y,) = splice.add("Identity", (X,), (("Y", types.of(X), X.shape),))
            splice.hand_over(node.outputs[0], Y)
            splice.commit()
            modified = True
        if state is not None:
            self._add(model, state, Draft("random_state", names, types))
        return PassResult(model, modified)

    def _add(self, model: ir.Model, state: ir.Value, draft: Draft) -> None:
        one = draft.constant("one", ir.tensor(np.array([1], np.int64)))
        (after,) = draft.add("Add", (state, one), (("updated", _INT64, state.shape),))
        after.name = f"{state.name}_updated"
        model.graph.inputs.append(state)
        model.graph.outputs.append(after)
        model.graph.extend(draft.nodes)
        self.state = (state.name or "", after.name)


def _constant(node: ir.Node, index: int, default: float | bool, constants: Constants) -> float | bool | None:
    """The value of an optional input; None if it is not constant."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return default
    array = constants.of(value)
    if array is None or array.size != 1 or array.dtype.kind in _NO_NUMBERS or not 0 <= array.item() <= 1:
        return None
    return array.item()


def _masked(draft: Draft, X: ir.Value, state: ir.Value, ratio: float, layer: int, types: Types) -> ir.Value:
    dtype = types.of(X) or ir.DataType.FLOAT
    vector = ir.Shape([None])

    def number(value: int) -> ir.Value:
        return draft.constant("number", ir.tensor(np.array(value % 2**64, np.uint64).astype(np.int64)))

    def op(op_type: str, *inputs: ir.Value, kind: ir.DataType = _INT64, **attributes: int) -> ir.Value:
        return draft.add(op_type, inputs, ((op_type.lower(), kind, vector),), attributes)[0]

    def shifted(bits: ir.Value, places: int) -> ir.Value:
        """Shift int64 to the right, filling with zeros from the left."""
        unsigned = op("Cast", bits, kind=_UINT64, to=_UINT64.value)
        count = draft.constant("places", ir.tensor(np.array(places, np.uint64)))
        (moved,) = draft.add("BitShift", (unsigned, count), (("moved", _UINT64, vector),), {"direction": "RIGHT"})
        return op("Cast", moved, to=_INT64.value)

    def squared(x: ir.Value, plus: ir.Value) -> ir.Value:
        return op("Add", op("Mul", x, x), plus)

    def swapped(bits: ir.Value) -> ir.Value:
        """Exchange the upper and the lower half."""
        return op("Add", shifted(bits, 32), op("Mul", bits, number(2**32)))

    (shape,) = draft.add("Shape", (X,), (("shape", _INT64, None),))
    (size,) = draft.add("Size", (X,), (("size", _INT64, _SCALAR),))
    (end,) = draft.add("Add", (size, number(1)), (("end", _INT64, _SCALAR),))
    element = op("Range", number(1), end, number(1))
    half = op("Add", op("Mul", state, number(_FIRST)), number(layer * _SECOND + _GOLDEN))
    key = op("Add", op("Mul", half, number(2)), number(1))
    y = op("Mul", element, key)
    z = op("Add", y, key)
    top = shifted(squared(swapped(squared(swapped(squared(y, y)), z)), y), 64 - _BITS)
    smallest = draft.constant("smallest", ir.tensor(np.array(round(ratio * 2**_BITS), np.int64)))
    dropped = op("Less", top, smallest, kind=ir.DataType.BOOL)
    kept = op("Not", dropped, kind=ir.DataType.BOOL)
    factor = draft.constant(
        "factor", ir.tensor(np.array(1 / (1 - ratio) if ratio < 1 else 0, dtype.numpy()), dtype=dtype)
    )
    mask = op("Mul", op("Cast", kept, kind=dtype, to=dtype.value), factor, kind=dtype)
    (mask,) = draft.add("Reshape", (mask, shape), (("mask", dtype, X.shape),))
    (Y,) = draft.add("Mul", (X, mask), (("Y", dtype, X.shape),))
    node = Y.producer()
    assert node is not None
    node.metadata_props[RANDOM_MASK] = "1"
    return Y
