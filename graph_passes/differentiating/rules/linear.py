"""Gradient rules of matrix products."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import ZERO, InputGradient, rule


@rule("MatMul")
def matmul(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """MatMul: dA = dY B^T, dB = A^T dY, summed over broadcast axes; a vector counts as a row or a column."""
    A, B = node.inputs
    row, column = g.rank(A) == 1, g.rank(B) == 1
    dY = g.Unsqueeze(dY, [-1]) if column else dY
    dY = g.Unsqueeze(dY, [-2]) if row else dY
    left, right = (g.Unsqueeze(A, [0]) if row else A), (g.Unsqueeze(B, [1]) if column else B)
    dA = dB = None
    if g.rank(left) == g.rank(right) == 2:
        dA = g.Gemm(dY, right, transB=1) if g.wants(A) else None
        dB = g.Gemm(left, dY, transA=1) if g.wants(B) else None
        return [dA and g.reshape_like(dA, A), dB and g.reshape_like(dB, B)]
    if g.wants(A):
        dA = g.unbroadcast(g.MatMul(dY, _transposed(g, right)), left)
        dA = g.reshape_like(dA, A) if row else dA
    if g.wants(B):
        if g.rank(right) == 2 and g.rank(left) > 2:  # one product of all rows, not a sum over a batch
            dB = g.MatMul(_transposed(g, _rows(g, left)), _rows(g, dY))
        else:
            dB = g.unbroadcast(g.MatMul(_transposed(g, left), dY), right)
        dB = g.reshape_like(dB, B) if column else dB
    return [dA, dB]


def _transposed(g: Builder, X: Read) -> ir.Value:
    rank = g.rank(X)
    return g.Transpose(X, perm=[*range(rank - 2), rank - 1, rank - 2])


def _rows(g: Builder, X: Read) -> ir.Value:
    """All rows of a batch of matrices, as one matrix."""
    size = g.shape(X)[-1]
    if isinstance(size, int) and size > 0:
        return g.Reshape(X, [-1, size])
    return g.Reshape(X, g.Concat([-1], g.sizes_of(X, [g.rank(X) - 1]), axis=0), shape=(None, size))


@rule("Gemm")
def gemm(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Y = alpha A B + beta C: dA = alpha dY B^T, dB = alpha A^T dY, dC = beta dY."""
    A, B, C = node.inputs[0], node.inputs[1], optional_input(node, 2)
    a, b = attribute(node, "transA", 0), attribute(node, "transB", 0)
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    dA = dB = dC = None
    if g.wants(A):
        left, right, flags = (B, dY, (b, 1)) if a else (dY, B, (0, 1 - b))
        dA = g.Gemm(left, right, alpha=alpha, transA=flags[0], transB=flags[1], like=A)
    if g.wants(B):
        left, right, flags = (dY, A, (1, a)) if b else (A, dY, (1 - a, 0))
        dB = g.Gemm(left, right, alpha=alpha, transA=flags[0], transB=flags[1], like=B)
    if C is not None and g.wants(C):
        dC = g.unbroadcast(dY, C)
        dC = dC if beta == 1 else g.Mul(dC, beta)
    return [dA, dB, dC]


@rule("RotaryEmbedding")
def rotary_embedding(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """RotaryEmbedding: it turns pairs of elements, and dX is dY turned back; the tables of angles are constants."""
    X, cosines, sines, *places = node.inputs
    attributes = {name: each.value for name, each in node.attributes.items()}
    return [g.RotaryEmbedding(dY, cosines, g.Neg(sines), *places, like=X, **attributes), None, None, ZERO]
