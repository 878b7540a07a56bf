"""Makes a forward graph suitable for ONNX Runtime's gradient builder, or refuses it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes import (
    DecomposePass,
    DropZeroBiasPass,
    ExplicitPadsPass,
    FoldConstantsPass,
    UnpackSequencesPass,
    UnshareFixedPass,
    label,
)
from onnx_cbp.graph_passes.core.inference import infer_shapes
from onnx_cbp.graph_passes.core.values.ancestry import gradient_path

#: Ops that ONNX Runtime 1.19.2, the last that trains, has a right gradient of on the processor.
_FOLLOWED = frozenset(
    (
        *("Abs", "Add", "BatchNormalization", "Cast", "Clip", "Concat", "Cos", "Div", "Erf", "Exp"),
        *("Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "Identity"),
        *("LeakyRelu", "Log", "LogSoftmax", "Max", "Min", "Mul", "Neg", "Reciprocal", "ReduceMean", "ReduceSum"),
        *("Relu", "Reshape", "ScatterElements", "ScatterND", "Sigmoid", "Sin", "Softmax", "SoftmaxCrossEntropyLoss"),
        *("Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "TopK", "Trilu", "Unsqueeze"),
    )
)
#: Ops whose gradient is right in some forms: a rule knows which, and makes the others so.
_MENDED = frozenset(
    (
        *(
            "Conv",
            "Dropout",
            "Gelu",
            "LayerNormalization",
            "MatMul",
            "MaxPool",
            "Pad",
            "Pow",
            "ReduceL2",
            "ReduceLogSumExp",
            "Slice",
            "SoftmaxCrossEntropyLoss",
            "Split",
        ),
        *("Transpose", "Where"),
    )
)


def suit_builder(model: ir.Model, trained: Sequence[str], frozen: Sequence[str] = ()) -> None:
    """Take out of an export what ONNX Runtime's gradient builder cannot follow, without changing what it computes.

    Args:
        model: the forward graph, without model-local functions; it is changed in place.
        trained: names of the parameters that have a gradient.
        frozen: names of those that stay parameters without one.

    Raises:
        OnnxCbpError: a node has a form whose gradient the builder has not, or has wrong.
    """
    infer_shapes(model)
    FoldConstantsPass()(model)
    UnpackSequencesPass()(model)
    path = gradient_path(model, trained)
    ExplicitPadsPass([node for node in model.graph if any(value in path for value in node.outputs)])(model)
    if DecomposePass(lambda op: op not in _FOLLOWED, trained)(model).modified:
        FoldConstantsPass()(model)
    UnshareFixedPass(trained)(model)
    DropZeroBiasPass(trained)(model)
    _drop_unread(model, {*trained, *frozen})
    _refuse_what_is_left(model, trained)


def _drop_unread(model: ir.Model, named: Collection[str]) -> None:
    """Drop the initializers that nothing reads: what was folded leaves some, and ONNX Runtime warns of each."""
    for name, value in list(model.graph.initializers.items()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input() or name in named):
            del model.graph.initializers[name]


def _refuse_what_is_left(model: ir.Model, trained: Sequence[str]) -> None:
    path = gradient_path(model, trained)
    for node in model.graph:
        if node.domain != "" or not any(value in path for value in node.outputs):
            continue
        reason = _obstacle(node)
        if reason is not None:
            raise OnnxCbpError(
                f"node '{label(node)}' ({node.op_type}): ONNX Runtime's gradient builder {reason}: export it as ops "
                "that have a gradient, or leave the parameters in front of it out of requires_grad"
            )


def _obstacle(node: ir.Node) -> str | None:
    """Why the builder has no right gradient of a node; None if it has."""
    if node.op_type not in _FOLLOWED | _MENDED:
        return "has no gradient for this op"
    for name, only in (("mode", "constant"), ("reduction", "none")):
        attribute = node.attributes.get(name)
        if attribute is not None and node.op_type in ("Pad", "ScatterElements", "ScatterND"):
            found = attribute.as_string()
            if found != only:
                return f"has no right gradient for it with {name} = {found} and sizes that are not known"
    if node.op_type == "Conv" and (_rank(node) or 0) >= 5 and "group" in node.attributes:
        groups = node.attributes["group"].as_int()
        if groups > 1:
            return f"has a wrong gradient for it with {groups} groups and three spatial axes"
    if node.op_type == "MaxPool" and not _fixed_space(node.inputs[0]):
        # Its kernel takes open sizes for 0: gradients are zero, or it writes past the memory it has.
        return "has a wrong gradient for it where height and width are not fixed"
    if node.op_type == "Pad" and len(node.inputs) > 3 and node.inputs[3] is not None:
        return "has no gradient for it with axes and pads that are not known"
    return None


def _fixed_space(value: ir.Value | None) -> bool:
    """Whether all sizes behind the channels are known."""
    shape = None if value is None else value.shape
    return shape is not None and all(isinstance(size, int) for size in shape[2:])


def _rank(node: ir.Node) -> int | None:
    """The rank of a node's weight, or of its result."""
    known = [
        value.shape for value in (node.inputs[1], node.outputs[0]) if value is not None and value.shape is not None
    ]
    return len(known[0]) if known else None
