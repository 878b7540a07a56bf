"""Gradients of ops that multiply each axis by a matrix: Resize, and Pad in the modes that copy data."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.differentiating.builder import Builder, Read


def back_along(g: Builder, dY: ir.Value, matrix: ir.Value, axis: int, like: Read = None) -> ir.Value:
    """The gradient [..., in, ...] of an op that multiplied one axis by a matrix [out, in]."""
    rank = g.rank(dY)
    if axis == rank - 1:
        return g.MatMul(dY, matrix, like=like)
    if axis == rank - 2:
        return g.MatMul(g.Transpose(matrix, perm=[1, 0]), dY, like=like)
    order = [i for i in range(rank) if i != axis] + [axis]
    moved = g.MatMul(g.Transpose(dY, perm=order), matrix)
    return g.Transpose(moved, perm=[order.index(i) for i in range(rank)], like=like)
