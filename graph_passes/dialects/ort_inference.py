"""Turns forward ops that ONNX Runtime's gradient builder made from ONNX's back into ops of ONNX."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.inference import MOST_AXES
from onnx_cbp.graph_passes.core.splice import Draft
from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input

_MICROSOFT = "com.microsoft"
_LAYER_NORMALIZATION_SINCE = 17


def in_onnx(node: ir.Node, opset: int, draft: Draft) -> ir.Value | None:
    """A node's first output at inference, computed by ONNX ops in the draft; None if the node is already one of these.

    Batch norms are not handled here: they are sites.
    """
    if node.domain == "" and node.op_type == "Dropout":
        return draft.add("Identity", node.inputs[:1], (_like(node),))[0]
    if node.domain == "" and node.op_type == "LayerNormalization" and opset < _LAYER_NORMALIZATION_SINCE:
        return _layer_normalization(node, draft)
    if node.domain != _MICROSOFT:
        return None
    if node.op_type == "ConcatTraining":
        return draft.add("Concat", node.inputs, (_like(node),), {"axis": int(attribute(node, "axis", 0))})[0]
    if node.op_type in _GELUS and optional_input(node, 0) is not None:
        return _GELUS[node.op_type](node, draft)
    return None


def _like(node: ir.Node, suffix: str = "output") -> tuple[str, ir.DataType | None, ir.Shape | None]:
    output = node.outputs[0]
    return suffix, output.dtype, output.shape


class _Arithmetic:
    """Formulas on values with the type and shape of a node's output."""

    def __init__(self, node: ir.Node, draft: Draft) -> None:
        self._node, self._draft = node, draft

    def constant(self, name: str, value: float) -> ir.Value:
        dtype = self._node.outputs[0].dtype or ir.DataType.FLOAT
        return self._draft.constant(name, ir.tensor(np.array(value).astype(dtype.numpy()), dtype=dtype))

    def op(self, op_type: str, *inputs: ir.Value) -> ir.Value:
        return self._draft.add(op_type, inputs, (_like(self._node, op_type.lower()),))[0]


def _gelu(node: ir.Node, draft: Draft) -> ir.Value:
    """X / 2 * (1 + erf(x / sqrt(2)))."""
    x, f = node.inputs[0], _Arithmetic(node, draft)
    assert x is not None
    erf = f.op("Erf", f.op("Mul", x, f.constant("rsqrt2", math.sqrt(0.5))))
    half = f.op("Mul", x, f.constant("half", 0.5))
    return f.op("Mul", half, f.op("Add", erf, f.constant("one", 1.0)))


def _fast_gelu(node: ir.Node, draft: Draft) -> ir.Value:
    """X / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), where x includes the bias if there is one."""
    x, f = node.inputs[0], _Arithmetic(node, draft)
    assert x is not None
    bias = optional_input(node, 1)
    if bias is not None:
        x = f.op("Add", x, bias)
    cubed = f.op("Mul", f.op("Mul", x, x), f.op("Mul", x, f.constant("cubic", 0.044715)))
    tanh = f.op("Tanh", f.op("Mul", f.op("Add", x, cubed), f.constant("sqrt_2_pi", math.sqrt(2 / math.pi))))
    half = f.op("Mul", x, f.constant("half", 0.5))
    return f.op("Mul", half, f.op("Add", tanh, f.constant("one", 1.0)))


def _quick_gelu(node: ir.Node, draft: Draft) -> ir.Value:
    """X * sigmoid(alpha * x); alpha = 1 is SiLU."""
    x, f = node.inputs[0], _Arithmetic(node, draft)
    assert x is not None
    alpha = float(attribute(node, "alpha", 1.702))
    scaled = x if alpha == 1 else f.op("Mul", x, f.constant("alpha", alpha))
    return f.op("Mul", x, f.op("Sigmoid", scaled))


_GELUS = {"Gelu": _gelu, "FastGelu": _fast_gelu, "QuickGelu": _quick_gelu}


def _layer_normalization(node: ir.Node, draft: Draft) -> ir.Value | None:
    """Scale * (x - mean) / sqrt(var + epsilon) + B over the axes from `axis` on; None if these are not known."""
    x, scale, B = node.inputs[0], optional_input(node, 1), optional_input(node, 2)
    axis = int(attribute(node, "axis", -1))
    if x is None or scale is None or (axis >= 0 and x.shape is None):
        return None
    if axis < -(MOST_AXES if x.shape is None else len(x.shape)):
        return None
    axes = list(range(axis, 0)) if axis < 0 else list(range(axis, len(x.shape or ())))
    f, dtype = _Arithmetic(node, draft), node.outputs[0].dtype

    def mean(value: ir.Value, suffix: str) -> ir.Value:
        return draft.add("ReduceMean", (value,), ((suffix, dtype, None),), {"axes": axes})[0]

    centred = f.op("Sub", x, mean(x, "mean"))
    var = mean(f.op("Mul", centred, centred), "var")
    (shifted,) = draft.add(
        "Add", (var, f.constant("epsilon", float(attribute(node, "epsilon", 1e-5)))), (("shifted", dtype, None),)
    )
    (std,) = draft.add("Sqrt", (shifted,), (("std", dtype, None),))
    Y = f.op("Mul", f.op("Div", centred, std), scale)
    return Y if B is None else f.op("Add", Y, B)
