"""Ops that resample each axis separately: by constant matrices and indices, if the sizes are known."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnx_cbp.graph_passes.core.formula import Formula

_LARGEST = 4096  # a larger matrix does not pay


def resize(f: Formula) -> ir.Value | None:
    """Multiplies every axis by the op's result for the unit matrix; or selects elements, if that is a selection."""
    x, result = f.input(0), f.node.outputs[0]
    before, after = f.shape(x), f.shape(result)
    if before is None or f.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    if f.text("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return None
    scales = _scales(f)
    axes = f.integers("axes") or list(range(len(before)))
    for position, axis in enumerate(each % len(before) for each in axes):
        scale = None if scales is None else float(scales[position])
        size = None if after is None else after[axis]
        if scale == 1.0 or (scale is None and size is not None and size == before[axis]):
            continue
        number = before[axis]
        if not isinstance(number, int) or number > _LARGEST or (scale is None and not isinstance(size, int)):
            return None
        matrix = _matrix(f, number, scale, size if isinstance(size, int) else 0)
        x = _along(f, x, matrix, axis, len(before))
    return f.op("Identity", x) if x is f.input(0) else x


def pad(f: Formula) -> ir.Value | None:
    """Pads that repeat elements, as a selection of elements along each axis; pads of some axes, as pads of all."""
    mode, pads, axes = f.text("mode", "constant"), f.known(1), f.known(3)
    shape = f.shape(f.input(0))
    listed = len(f.node.inputs) > 3 and f.node.inputs[3] is not None
    if (mode == "constant" and not listed) or pads is None or shape is None or (listed and axes is None):
        return None
    rank = len(shape)
    chosen = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    front, behind = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    front[chosen], behind[chosen] = pads[: len(chosen)], pads[len(chosen) :]
    if mode == "constant":
        fill = f.node.inputs[2]
        return f.op("Pad", f.input(0), f.sizes([*front, *behind]), *([] if fill is None else [fill]))
    x = f.input(0)
    for axis, size in enumerate(shape):
        if front[axis] or behind[axis]:
            if not isinstance(size, int):
                return None
            index = np.arange(size)
            index = index[max(0, -front[axis]) : size + min(0, behind[axis])]
            around = (max(0, front[axis]), max(0, behind[axis]))
            x = f.op("Gather", x, f.sizes(np.pad(index, around, mode)), axis=axis)  # type: ignore[call-overload]
    return f.op("Identity", x) if x is f.input(0) else x


def slice_(f: Formula) -> ir.Value | None:
    """A slice with a negative step, as a selection of elements."""
    starts, ends, axes, steps = (f.known(index) for index in (1, 2, 3, 4))
    shape = f.shape(f.input(0))
    if steps is None or not (steps < 0).any() or starts is None or ends is None or shape is None:
        return None
    x = f.input(0)
    for position in range(len(starts)):
        axis = int(position if axes is None else axes[position]) % len(shape)
        size, (start, end, step) = shape[axis], (int(each[position]) for each in (starts, ends, steps))
        if not isinstance(size, int):
            return None
        index = np.arange(size)[_python_slice(start, end, step, size)]
        x = f.op("Gather", x, f.sizes(index), axis=axis)
    return x


def _python_slice(start: int, end: int, step: int, size: int) -> slice:
    """ONNX's slice as a Python slice, where far ends do not count as negative indices."""
    return slice(start, None if step < 0 and end < -size else end, step)


def _scales(f: Formula) -> np.ndarray | None:
    """The scales of the op's axes; None if it has sizes instead."""
    if f.node.op_type == "Upsample" or len(f.node.inputs) == 2:
        attribute = f.node.attributes.get("scales")
        return f.known(1) if attribute is None else np.array(attribute.as_floats())
    scales = f.known(2)
    return scales if scales is not None and scales.size else None


def _matrix(f: Formula, number: int, scale: float | None, size: int) -> np.ndarray:
    """The op's result for the unit matrix along its second axis: each row says what becomes of one element."""
    attributes = [ir.to_proto(each) for name, each in f.node.attributes.items() if name not in ("axes", "scales")]
    op_type, inputs, tensors = "Resize", ["x", "", "scales"], {"scales": np.array([1, scale or 1], np.float32)}
    if scale is None:
        inputs, tensors = ["x", "", "", "sizes"], {"sizes": np.array([number, size], np.int64)}
    if f.node.op_type == "Upsample" or f.opset < 11:  # means the same as the op of opset 10 and older
        attributes.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        attributes.append(onnx.helper.make_attribute("nearest_mode", "floor"))
    node = onnx.helper.make_node(op_type, inputs, ["y"])
    node.attribute.extend(attributes)
    graph = onnx.helper.make_graph(
        [node],
        "axis",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [number, number])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opset = max(13, min(f.opset, onnx.defs.onnx_opset_version()))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (matrix,) = ReferenceEvaluator(model).run(None, {"x": np.eye(number, dtype=np.float32)})  # type: ignore[misc]
    return np.asarray(matrix)


def _along(f: Formula, x: ir.Value, matrix: np.ndarray, axis: int, rank: int) -> ir.Value:
    """`x` times a matrix along an axis."""
    if ((matrix == 0) | (matrix == 1)).all() and (matrix.sum(0) == 1).all():
        return f.op("Gather", x, f.sizes(matrix.argmax(0)), axis=axis)
    if axis == rank - 1:
        return f.op("MatMul", x, f.constant(matrix))
    if axis == rank - 2:
        return f.op("MatMul", f.constant(matrix.T), x)
    there = [*(each for each in range(rank) if each != axis), axis]
    moved = f.op("MatMul", f.op("Transpose", x, perm=there), f.constant(matrix))
    return f.op("Transpose", moved, perm=[there.index(each) for each in range(rank)])


RULES = {"Pad": pad, "Resize": resize, "Slice": slice_, "Upsample": resize}
