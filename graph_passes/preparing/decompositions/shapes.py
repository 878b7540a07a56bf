"""Ops that move elements, in forms whose gradients ONNX Runtime's builder has right."""

from __future__ import annotations

import itertools

import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.formula import Formula
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import is_used

_SIZES_ARE_AN_INPUT = 13


def where(f: Formula) -> ir.Value | None:
    """The op with choices expanded to the result's shape: the builder does not sum the gradient of a broadcast one."""
    condition, *choices = (f.input(index) for index in range(3))
    whole = f.shape(f.node.outputs[0])
    narrow = [
        (f.followed is None or choice in f.followed) and (whole is None or None in whole or f.shape(choice) != whole)
        for choice in choices
    ]
    if not any(narrow):
        return None
    # Only the shape of this is read. The gradient of the sum with zeros undoes the broadcasting.
    size = f.op("Shape", f.op("Where", condition, *choices))
    zeros = f.op("Expand", f.constant(0.0), size)
    widened = (f.op("Add", each, zeros) if is_narrow else each for each, is_narrow in zip(choices, narrow, strict=True))
    return f.op("Where", condition, *widened)


def split(f: Formula) -> list[ir.Value | None] | None:
    """A slice for each part that is read: the builder joins only their gradients, as if they were the whole."""
    node, x = f.node, f.input(0)
    if all(is_used(value) for value in node.outputs):
        return None
    axis, sizes = int(f.number("axis", 0)), _sizes(f)
    if sizes is None:
        raise OnnxCbpError(
            f"node '{label(node)}' (Split) has a part that nothing reads, '{_unread(node)}', and the sizes of its "
            "parts are not known: export with fixed ones"
        )
    bounds = itertools.pairwise([0, *itertools.accumulate(sizes)])
    return [
        f.op("Slice", x, f.sizes([start]), f.sizes([end]), f.sizes([axis])) if is_used(value) else None
        for value, (start, end) in zip(node.outputs, bounds, strict=True)
    ]


def _unread(node: ir.Node) -> str:
    return next(value.name or "" for value in node.outputs if not is_used(value))


def _sizes(f: Formula) -> list[int] | None:
    """The sizes of the parts; None if they are not known."""
    given = f.integers("split")
    if given is not None:
        return given
    if len(f.node.inputs) > 1 and f.node.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(f.node.inputs[1])
        return None if tensor is None else [int(size) for size in tensor.numpy()]
    shape = f.shape(f.input(0))
    size = None if shape is None else shape[int(f.number("axis", 0))]
    if not isinstance(size, int):
        return None
    number = len(f.node.outputs)
    part = -(-size // number)
    return [*(part for _ in range(number - 1)), size - part * (number - 1)]


def transpose(f: Formula) -> ir.Value | None:
    """The op with its default permutation written out."""
    shape = f.shape(f.input(0))
    if "perm" in f.node.attributes or shape is None:
        return None
    return f.op("Transpose", f.input(0), perm=list(reversed(range(len(shape)))))


def depth_to_space(f: Formula) -> ir.Value | None:
    """Channels become blocks of each plane."""
    sizes, block = _planes(f), int(f.number("blocksize", 1))
    if sizes is None:
        return None
    depth, height, width = sizes
    depth //= block * block
    crd = f.text("mode", "DCR") == "CRD"
    parts = [depth, block, block] if crd else [block, block, depth]
    split_up = f.op("Reshape", f.input(0), f.sizes([-1, *parts, height, width]))
    moved = f.op("Transpose", split_up, perm=[0, 1, 4, 2, 5, 3] if crd else [0, 3, 4, 1, 5, 2])
    return f.op("Reshape", moved, f.sizes([-1, depth, height * block, width * block]))


def space_to_depth(f: Formula) -> ir.Value | None:
    """Blocks of each plane become channels."""
    sizes, block = _planes(f), int(f.number("blocksize", 1))
    if sizes is None:
        return None
    depth, height, width = sizes
    split_up = f.op("Reshape", f.input(0), f.sizes([-1, depth, height // block, block, width // block, block]))
    moved = f.op("Transpose", split_up, perm=[0, 3, 5, 1, 2, 4])
    return f.op("Reshape", moved, f.sizes([-1, depth * block * block, height // block, width // block]))


def _planes(f: Formula) -> tuple[int, int, int] | None:
    """Channels, height and width; None if they are not known."""
    shape = f.shape(f.input(0))
    if shape is None:
        return None
    known = [size for size in shape[1:] if isinstance(size, int)]
    return (known[0], known[1], known[2]) if len(known) == 3 else None


RULES = {
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Transpose": transpose,
    "Where": where,
}
