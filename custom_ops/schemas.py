"""ONNX schemas of the ops: `onnx.defs` lists them, and onnx's checker and shape inference use them."""

from __future__ import annotations

import threading
from typing import Any

import onnx
import onnx.defs
from onnx.defs import OpSchema

from onnx_cbp.custom_ops.operator import AXIS_OF_OUTPUTS, DOMAIN, OPSET_VERSION, Operator, Tensor
from onnx_cbp.custom_ops.ops import OPERATORS
from onnx_cbp.custom_ops.windows import WINDOW_ATTRIBUTES, counts_of

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
    """The schema of an op, with shape inference if the installed onnx supports it (1.18 and newer)."""
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
            if isinstance(a.default, tuple)  # the default depends on the rank
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
    """Infer types and shapes of the outputs from those of the inputs; what is unknown stays unknown."""
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
    """The shape of each kind of tensor, as far as it follows from the known shapes of the inputs."""
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
        shapes.update(_shapes_of_windows(operator, shapes, context))
    elif "X" in shapes:
        attribute = context.get_attribute("axis")
        axis = attribute.i if attribute is not None else 1
        rank = len(shapes["X"].dim)
        if not -rank <= axis < rank:
            error = f"{operator}: attribute 'axis' is {axis}, out of range for rank {rank}"
            raise onnx.shape_inference.InferenceError(error)
        letters["C"] = shapes["X"].dim[axis % rank]
    for t in operator.outputs:
        if t.shape not in ("X", "windows", "kernel", *AXIS_OF_OUTPUTS):
            dims = [letters.get(letter, onnx.TensorShapeProto.Dimension()) for letter in t.shape]
            shapes.setdefault(t.shape, onnx.TensorShapeProto(dim=dims))
    return shapes


def _shapes_of_windows(
    operator: Operator, shapes: dict[str, onnx.TensorShapeProto], context: Any
) -> dict[str, onnx.TensorShapeProto]:
    """The shape of a convolution's result, or of its weight's gradient, as far as it is known."""
    lists = {name: context.get_attribute(name) for name in WINDOW_ATTRIBUTES}
    attributes = {name: [] if each is None else list(each.ints) for name, each in lists.items()}
    kernel, dimension = attributes["kernel_shape"], onnx.TensorShapeProto.Dimension
    for kind, shape in shapes.items():
        if kind and len(shape.dim) != 2 + len(kernel):
            error = f"{operator}: attribute 'kernel_shape' is {kernel}, for a rank of {len(shape.dim)}"
            raise onnx.shape_inference.InferenceError(error)
    data = shapes["X"].dim if "X" in shapes else None
    made: dict[str, onnx.TensorShapeProto] = {}
    sizes = [dimension(dim_value=size) for size in kernel]
    if "windows" in shapes:
        made["kernel"] = onnx.TensorShapeProto(dim=[shapes["windows"].dim[1], dimension(dim_value=1), *sizes])
    if "outputs" in shapes:
        channels = dimension() if data is None else data[1]
        made["weight"] = onnx.TensorShapeProto(dim=[shapes["outputs"].dim[1], channels, *sizes])
    weight = next((kind for kind in ("weight", "exchanged weight") if kind in shapes), None)
    if weight is not None and data is not None:
        outputs = shapes[weight].dim[AXIS_OF_OUTPUTS[weight]]
        counts = counts_of([d.dim_value if d.HasField("dim_value") else None for d in data[2:]], attributes)
        after = [dimension() if count is None else dimension(dim_value=count) for count in counts]
        made["outputs"] = onnx.TensorShapeProto(dim=[data[0], outputs, *after])
    return made
