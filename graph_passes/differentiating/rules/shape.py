"""Ops that move elements: shapes, orders, joins, parts, repetitions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.dialects._reading import attribute
from onnx_cbp.graph_passes.differentiating.attributes import ints, text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Read
from onnx_cbp.graph_passes.differentiating.registry import InputGradient, rule


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """The same elements, in the shape of X."""
    return [g.reshape_like(dY, node.inputs[0])]


@rule("Transpose")
def transpose(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """The inverse permutation."""
    perm = ints(node, "perm", range(g.rank(node.inputs[0]))[::-1])
    return [g.Transpose(dY, perm=np.argsort(perm).tolist())]


@rule("Expand")
def expand(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """The sum over what was repeated."""
    return [g.unbroadcast(dY, node.inputs[0])]


@rule("Concat")
def concat(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Each input has its part of dY."""
    if len(node.inputs) == 1:
        return [dY]
    axis = attribute(node, "axis", 0) % g.rank(dY)
    sizes = [g.sizes_of(X, [axis]) for X in node.inputs]
    if all(size.const_value is not None for size in sizes):
        sizes_vector = g.ints(*(g.fixed(X, [axis])[0] for X in node.inputs))
    else:
        sizes_vector = g.Concat(*sizes, axis=0)
    parts = g.ops("Split", dY, sizes_vector, axis=axis, outputs=len(sizes))
    return [g.let_be_like(part, X) for part, X in zip(parts, node.inputs, strict=True)]


@rule("Split")
def split(g: Builder, node: ir.Node, *gradients: ir.Value | None) -> list[InputGradient]:
    """The parts' gradients behind one another; zeros for a part without."""
    axis = attribute(node, "axis", 0)
    parts = [g.zeros_like(Y) if dY is None else dY for Y, dY in zip(node.outputs, gradients, strict=True)]
    return [g.Concat(*parts, axis=axis, like=node.inputs[0])]


@rule("DepthToSpace")
def depth_to_space(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """SpaceToDepth, which has the DCR order; the CRD order has the channels in front of the blocks."""
    X, block = node.inputs[0], attribute(node, "blocksize", 1)
    dX = g.SpaceToDepth(dY, blocksize=block)
    if text(node, "mode", "DCR") == "DCR":
        return [dX]
    (depth,) = g.fixed(X, [1])
    return [_reorder_channels(g, dX, X, [block * block, depth // block**2])]


@rule("SpaceToDepth")
def space_to_depth(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """DepthToSpace, in the DCR order."""
    return [g.DepthToSpace(dY, blocksize=attribute(node, "blocksize", 1), mode="DCR")]


def _reorder_channels(g: Builder, dX: ir.Value, X: Read, sizes: list[int]) -> ir.Value:
    """Channels that are [sizes] in turn, with the two exchanged."""
    apart = g.Concat(g.sizes_of(X, [0]), sizes, g.sizes_of(X, [2, 3]), axis=0)
    return g.reshape_like(g.Transpose(g.Reshape(dX, apart), perm=[0, 2, 1, 3, 4]), X)
