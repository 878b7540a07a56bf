"""Which initializers of a forward graph are weights, if nobody says what trains."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from onnx_cbp.training.arguments import listed

_log = logging.getLogger("onnx_cbp")
#: The types of what can train.
TRAINABLE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
#: PyTorch's default exporter marks initializers that are parameters of the module under this key.
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
#: Names that exporters invent for constants.
_MADE_UP = re.compile(r"(onnx::|val_\d|const|/)")
#: Names as parameters of a module have them, "layer1.0.weight", "cls_token"; and variables of TensorFlow.
_OF_A_MODULE = re.compile(r"(?!onnx|val_\d|.*const)[a-z_]\w*(\.\w+)*|.*/ReadVariableOp.*", re.IGNORECASE)
#: The largest number that an additive mask takes away with.
_MASKED = -1e4
#: Ops with weights, by the positions of the inputs that are weights if they are initializers.
_WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "Gather": (0,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}


def is_weight(value: ir.Value) -> bool:
    """Whether an initializer is a parameter, and not a number for computations."""
    kind = value.metadata_props.get(_KIND)
    if kind is not None:
        return kind == "PARAMETER"
    # That of its data: an input with a default may be declared with sizes that are open.
    size = 0 if value.const_value is None else value.const_value.size
    if not size:
        return False
    read = list(_readers(value))
    if _is_read_as_weight(read):
        return True
    if _masks(value):
        return False
    made_up = _MADE_UP.match(value.name or "") is not None
    # A bias that is added, or a scale. Single numbers are constants, unless they are added as vectors to the result of
    # a layer, which may have one unit. So are initializers with invented names, unless they are added to one: tf2onnx
    # gives a bias that it reshaped such a name.
    is_vector = value.const_value is not None and len(value.const_value.shape) > 0
    if any(node.op_type == "Add" and _is_layers(node.inputs[1 - index]) for node, index in read) and (
        size > 1 or (is_vector and not made_up)
    ):
        return True
    return size > 1 and not made_up and any(node.op_type in ("Add", "Mul") for node, _ in read)


def _masks(value: ir.Value) -> bool:
    """Whether an initializer takes away what it is added to, as attention is masked: no weight has such numbers."""
    return value.const_value is not None and bool(value.const_value.numpy().min() <= _MASKED)


def _is_read_as_weight(read: Iterable[tuple[ir.Node, int]]) -> bool:
    return any(index in _WEIGHTS.get(node.op_type, ()) for node, index in read)


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """The nodes that compute with an initializer, directly or after it was cut, or joined with other initializers.

    PyTorch's exporters bring the gates of LSTM and GRU into ONNX's order so, and the scale of a group norm into the
    rank of its data.
    """
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        for node, index in current.uses():
            moved = (node.op_type in _MOVES and index == 0) or (
                node.op_type == "Concat" and all(map(_is_made, node.inputs))
            )
            if not moved:
                yield node, index
                continue
            new = [each for each in node.outputs if each not in seen]
            seen.update(new)
            waiting += new


_MOVES = ("Cast", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")


def _is_made(value: ir.Value | None) -> bool:
    """Whether a value is an initializer, or was moved or joined from initializers alone."""
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        if current is None:
            return False
        if current.is_initializer():
            continue
        node = current.producer()
        if node is None or node.op_type not in (*_MOVES, "Concat"):
            return False
        new = {*node.inputs} - seen
        seen |= new
        waiting += new
    return True


def _is_layers(value: ir.Value | None) -> bool:
    """Whether a value is the result of a convolution or a product with a weight, in any arrangement."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"):
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return False
    return any(each is not None and each.is_initializer() for each in node.inputs[:2])


def tell_others(others: Sequence[ir.Value]) -> None:
    """Name what is no weight by its use; a warning, if its name may be that of a parameter of a module."""
    modules = [v.name or "" for v in others if _has_name_of_parameter(v) and _KIND not in v.metadata_props]
    if modules:
        _log.warning(
            "requires_grad: not trained, since nothing says that they are weights: %s; list what trains in "
            "requires_grad, or these in frozen_params",
            listed(modules),
        )
    rest = [value.name or "" for value in others if value.name not in modules]
    if rest:
        _log.info("requires_grad: not trained, since nothing says that they are weights: %s", ", ".join(rest))


def _has_name_of_parameter(value: ir.Value) -> bool:
    return _OF_A_MODULE.fullmatch(value.name or "") is not None


def tell_constants(constants: Sequence[ir.Value]) -> None:
    """Warn of Constant nodes that are weights by their use."""
    weights = [
        value.name or ""
        for value in constants
        if value.dtype in TRAINABLE and _has_name_of_parameter(value) and _is_read_as_weight(_readers(value))
    ]
    if weights:
        _log.warning(
            "requires_grad: not trained, since they are Constant nodes, though ops read them as weights: %s; list "
            "what trains in requires_grad",
            listed(weights),
        )
