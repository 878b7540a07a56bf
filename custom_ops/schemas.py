"""ONNX schemas of the ops: they show in `onnx.defs`, and onnx's checker and shape inference use them."""

from __future__ import annotations

import threading
from typing import Any

import onnx
import onnx.defs
from onnx.defs import OpSchema

from onnx_cbp.custom_ops.operator import DOMAIN, OPSET_VERSION, Operator, Tensor
from onnx_cbp.custom_ops.ops import OPERATORS

_lock = threading.Lock()

_TYPES = {
    "T": ["tensor(float16)", "tensor(bfloat16)", "tensor(float)", "tensor(double)"],
    "U": ["tensor(float)", "tensor(double)"],
}
_TYPE_DOCS = {"T": "Type of the data.", "U": "Type of the statistics, of scale and of B."}


def _formal(tensor: Tensor) -> OpSchema.FormalParameter:
    type_string = tensor.type if tensor.type in _TYPES else f"tensor({tensor.type})"
    return OpSchema.FormalParameter(tensor.name, type_string, tensor.doc)


def make_schema(operator: Operator) -> OpSchema:
    """The schema of an op, with shape inference where the installed onnx takes one (1.18 and newer)."""
    used = [name for name in _TYPES if any(t.type == name for t in operator.inputs + operator.outputs)]
    schema = OpSchema(
        operator.name,
        DOMAIN,
        OPSET_VERSION,
        operator.doc,
        inputs=[_formal(t) for t in operator.inputs],
        outputs=[_formal(t) for t in operator.outputs],
        type_constraints=[(name, _TYPES[name], _TYPE_DOCS[name]) for name in used],
        attributes=[
            OpSchema.Attribute(a.name, OpSchema.AttrType.INTS, a.doc, required=False)
            if isinstance(a.default, tuple)  # whose default depends on the rank
            else OpSchema.Attribute(a.name, onnx.helper.make_attribute(a.name, a.default), a.doc)
            for a in operator.attributes
        ],
    )
    if hasattr(schema, "set_type_and_shape_inference_function"):
        schema.set_type_and_shape_inference_function(lambda context: _infer(operator, context))
    return schema


def register_schemas() -> None:
    """Register every schema of the domain with onnx. Safe to call twice."""
    with _lock:
        for operator in OPERATORS.values():
            if not onnx.defs.has(operator.name, DOMAIN):
                onnx.defs.register_schema(make_schema(operator))


def _infer(operator: Operator, context: Any) -> None:
    """Types and shapes of the outputs from those of the inputs; what is unknown stays unknown."""
    inputs = {t.name: context.get_input_type(i) for i, t in enumerate(operator.inputs)}
    elements = {"int64": onnx.TensorProto.INT64}
    for t in operator.inputs:
        proto = inputs[t.name]
        if proto is not None and proto.tensor_type.elem_type:
            elements.setdefault(t.type, proto.tensor_type.elem_type)
    if any(a.name == "stash_type" for a in operator.attributes):
        stash = context.get_attribute("stash_type")
        elements["U"] = stash.i if stash is not None else onnx.TensorProto.FLOAT
    shapes = _shapes(operator, inputs, context)
    for index, t in enumerate(operator.outputs):
        if t.type not in elements:
            continue
        proto = onnx.TypeProto()
        proto.tensor_type.elem_type = elements[t.type]
        if t.shape in shapes:
            proto.tensor_type.shape.CopyFrom(shapes[t.shape])
        context.set_output_type(index, proto)


def _shapes(
    operator: Operator, inputs: dict[str, onnx.TypeProto | None], context: Any
) -> dict[str, onnx.TensorShapeProto]:
    """The shape of each kind of tensor that the known shapes of the inputs tell of."""
    shapes = {"": onnx.TensorShapeProto()}
    letters: dict[str, onnx.TensorShapeProto.Dimension] = {}
    for t in operator.inputs:
        proto = inputs[t.name]
        if proto is None or not proto.tensor_type.HasField("shape"):
            continue
        shapes.setdefault(t.shape, proto.tensor_type.shape)
        if t.shape != "X" and len(proto.tensor_type.shape.dim) == len(t.shape):
            for letter, dim in zip(t.shape, proto.tensor_type.shape.dim, strict=True):
                letters.setdefault(letter, dim)
    if operator.has_windows:
        shapes.update(_shape_of_kernel(operator, shapes, context))
    elif "X" in shapes:
        attribute = context.get_attribute("axis")
        axis = attribute.i if attribute is not None else 1
        rank = len(shapes["X"].dim)
        if not -rank <= axis < rank:
            error = f"{operator}: attribute 'axis' is {axis}, out of range for rank {rank}"
            raise onnx.shape_inference.InferenceError(error)
        letters["C"] = shapes["X"].dim[axis % rank]
    for t in operator.outputs:
        if t.shape not in ("X", "windows", "kernel"):
            dims = [letters.get(letter, onnx.TensorShapeProto.Dimension()) for letter in t.shape]
            shapes.setdefault(t.shape, onnx.TensorShapeProto(dim=dims))
    return shapes


def _shape_of_kernel(
    operator: Operator, shapes: dict[str, onnx.TensorShapeProto], context: Any
) -> dict[str, onnx.TensorShapeProto]:
    """The shape of the weight of a depthwise convolution, where its results are known."""
    attribute = context.get_attribute("kernel_shape")
    if attribute is None or "windows" not in shapes:
        return {}
    results = shapes["windows"].dim
    if len(results) != 2 + len(attribute.ints):
        error = f"{operator}: attribute 'kernel_shape' is {list(attribute.ints)}, for a rank of {len(results)}"
        raise onnx.shape_inference.InferenceError(error)
    dimensions = [onnx.TensorShapeProto.Dimension(dim_value=size) for size in (1, *attribute.ints)]
    return {"kernel": onnx.TensorShapeProto(dim=[results[1], *dimensions])}
