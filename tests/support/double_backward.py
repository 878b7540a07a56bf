"""The double backward of a batch norm, of our ops and standard ONNX; docs/mathematics.md derives it."""

from __future__ import annotations

import onnx
import onnx.parser

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

    cotangent = Identity ({cotangent})
    sgv, bgv = onnx_cbp.ChannelBackpropStats <axis: int = 1> (X, mean, inv_std, cotangent)
    second_dY = onnx_cbp.ChannelBackprop <axis: int = 1> (cotangent, X, scale, mean, inv_std, sgv, bgv, count)

    zeros = Sub (mean, mean)
    ones = Exp (zeros)
    inner_product, unused = onnx_cbp.ChannelBackpropStats <axis: int = 1> (dY, zeros, ones, cotangent)
    m = Cast <to = 11> (count)
    sums = Mul (sg, sgv)
    biases = Mul (bg, bgv)
    both = Add (sums, biases)
    both_mean = Div (both, m)
    rest = Sub (inner_product, both_mean)
    second_scale = Mul (inv_std, rest)

    slope = Mul (scale, inv_std)
    slope_mean = Div (slope, m)
    minus = Neg (slope_mean)
    d_sg = Mul (minus, sgv)
    d_sgv = Mul (minus, sg)
    x1, mean1, inv1, unused1 = onnx_cbp.ChannelBackpropStatsGrad <axis: int = 1> (X, mean, inv_std, dY, d_sg, zeros)
    x2, mean2, inv2, unused2 =
        onnx_cbp.ChannelBackpropStatsGrad <axis: int = 1> (X, mean, inv_std, cotangent, d_sgv, zeros)
    d_mean = Add (mean1, mean2)
    d_inv_sums = Add (inv1, inv2)
    d_inv_direct = Mul (scale, rest)
    d_inv_std = Add (d_inv_sums, d_inv_direct)

    cube_part = Mul (inv_std, inv_std)
    minus_d_var_twice_std = Mul (cube_part, d_inv_std)
    through_var = Div (minus_d_var_twice_std, m)
    minus_through_var = Neg (through_var)
    through_mean = Div (d_mean, m)
    x3 = onnx_cbp.ChannelNormalize <axis: int = 1, epsilon: float = 0.001>
        (X, minus_through_var, through_mean, mean, var)
    x12 = Add (x1, x2)
    second_X = Add (x12, x3)
}}
"""


def double_backward(rank: int, *, penalty: bool = False) -> onnx.ModelProto:
    """The graph for X of this rank; penalty: of half the squared norm of dX, instead of <V, dX>."""
    dims = ", ".join(["N", "C", *(f"S{i}" for i in range(rank - 2))])
    model = onnx.parser.parse_model(_GRAPH.format(dims=dims, cotangent="dX" if penalty else "V"))
    onnx.checker.check_model(model)
    return model
