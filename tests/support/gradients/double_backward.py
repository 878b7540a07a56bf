"""The double backward of a batch norm as a graph; docs/internals/mathematics.md derives it."""

from __future__ import annotations

import onnx
import onnx.parser

from onnx_cbp.custom_ops.double_backward import batch_norm_double_backward

EPSILON = 1e-3

#: Cotangent V of the input gradient dX in; dX and the gradients of <V, dX> out. Gradient penalty: V = dX.
_GRAPH = """
<ir_version: 8, opset_import: ["" : 17, "onnx_cbp" : 1]>
agraph (double[{dims}] X, double[C] scale, double[{dims}] dY, double[{dims}] V)
    => (double[{dims}] dX, double[{dims}] second_X, double[C] second_scale, double[{dims}] second_dY)
{{
    mean, var, count = onnx_cbp.ChannelStats <axis: int = 1, stash_type: int = 11> (X)
    epsilon = Constant <value = double {{0.001}}> ()
    shifted = Add (var, epsilon)
    std = Sqrt (shifted)
    inv_std = Reciprocal (std)
    sg, bg = onnx_cbp.ChannelBackpropStats <axis: int = 1> (X, mean, inv_std, dY)
    dX = onnx_cbp.ChannelBackprop <axis: int = 1> (dY, X, scale, mean, inv_std, sg, bg, count)
}}
"""


def double_backward(rank: int, *, penalty: bool = False) -> onnx.ModelProto:
    """The graph for X of this rank; penalty: of half the squared norm of dX, instead of <V, dX>."""
    dims = ", ".join(["N", "C", *(f"S{i}" for i in range(rank - 2))])
    model = onnx.parser.parse_model(_GRAPH.format(dims=dims))
    second = batch_norm_double_backward(
        **{name: name for name in ("X", "scale", "mean", "var", "inv_std", "count", "dY")},
        scale_grad="sg",
        bias_grad="bg",
        V="dX" if penalty else "V",
        prefix="second_",
        epsilon=EPSILON,
        stash_type=onnx.TensorProto.DOUBLE,
    )
    model.graph.node.extend(second.nodes)
    onnx.checker.check_model(model)
    return model
