"""Which initializers of a forward graph are weights, if nobody says what trains."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.training.arguments import listed

_log = logging.getLogger("onnx_cbp")
#: The types of what can train.
TRAINABLE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
#: PyTorch's default exporter marks initializers that are parameters of the module under this key.
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
#: Names that exporters invent for constants.
_MADE_UP = re.compile(r"(onnx::|val_\d|const|/)")
#: Names as parameters of a module have them, "layer1.0.weight", "0.weight", "cls_token"; and variables of TensorFlow.
_OF_A_MODULE = re.compile(r"(?!onnx|val_\d|.*const)(\d+\.)*[a-z_]\w*(\.\w+)*|.*/ReadVariableOp.*", re.IGNORECASE)
#: The largest number that an additive mask takes away with.
_MASKED = -1e4
#: Ops with which modules use parameters of their own. What is subtracted, or divided by, are means and deviations.
_JOINING = ("Add", "Concat", "Expand", "Mul", "Where")
#: Layers that multiply their data by a weight.
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Ops with weights, by the positions of the inputs that are weights if they are initializers.
_WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "Einsum": range(26),
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


def are_marked(values: Iterable[ir.Value]) -> bool:
    """Whether the exporter of these initializers has marked parameters of the module."""
    return any(_KIND in value.metadata_props for value in values)


def is_weight(value: ir.Value, *, marked: bool = False) -> bool:
    """Whether an initializer is a parameter, and not a number for computations.

    Args:
        value: the initializer.
        marked: whether its exporter marks parameters, and so leaves only what it computed from them without a mark.
    """
    kind = value.metadata_props.get(_KIND)
    if kind is not None:
        return kind == "PARAMETER"
    # That of its data: an input with a default may be declared with sizes that are open.
    size = 0 if value.const_value is None else value.const_value.size
    if not size:
        return False
    read = list(_readers(value))
    if _changes_nothing(value, read, marked=marked):
        return False
    if _is_read_as_weight(read) or any(_is_of_group_norm(*each) or _is_direction(*each) for each in read):
        return True
    if _masks(value):
        return False
    made_up = is_made_up(value)
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


def _changes_nothing(value: ir.Value, read: Sequence[tuple[ir.Node, int]], *, marked: bool) -> bool:
    """Whether it is the scale or bias that exporters give an InstanceNormalization which has none: ones or zeros.

    So they write group norms, whose own scale and bias follow, and instance norms without parameters.
    """
    neutral = {1: 1, 2: 0}
    if value.const_value is None or not read:
        return False
    array = value.const_value.numpy()
    if any(node.op_type != "InstanceNormalization" or (array != neutral.get(index)).any() for node, index in read):
        return False
    return (marked and is_made_up(value)) or all(_normalises_groups(node) for node, _ in read)


def is_made_up(value: ir.Value) -> bool:
    """Whether an exporter invented its name."""
    return _MADE_UP.match(value.name or "") is not None


def _normalises_groups(node: ir.Node) -> bool:
    """Whether a group norm was written with this InstanceNormalization."""
    following = node
    for op in ("Reshape", "Mul", "Add"):
        uses = list(following.outputs[0].uses())
        if len(uses) != 1 or uses[0].node.op_type != op:
            return False
        following = uses[0].node
    before = None if node.inputs[0] is None else node.inputs[0].producer()
    return before is not None and before.op_type == "Reshape"


def _is_of_group_norm(node: ir.Node, index: int) -> bool:
    """Whether a node reads the scale or bias of a group norm that was written with an InstanceNormalization."""
    if node.op_type not in ("Mul", "Add"):
        return False
    for op in ("Mul", "Reshape", "InstanceNormalization")[node.op_type == "Mul" :]:
        given = node.inputs[1 - index if node.op_type in ("Mul", "Add") else 0]
        producer = None if given is None else given.producer()
        if producer is None or producer.op_type != op:
            return False
        if op == "Mul":  # its other input is the scale
            index = next((i for i, each in enumerate(producer.inputs) if _is_made(each)), 0)
        node = producer
    return _normalises_groups(node)


def _is_direction(node: ir.Node, index: int) -> bool:
    """Whether a weight is made of what a node divides: its direction by its norm, as weight norms do it."""
    if node.op_type != "Div" or index != 0:
        return False
    readers = list(_readers(node.outputs[0]))
    scaled = [each for reader, _ in readers if reader.op_type == "Mul" for each in _readers(reader.outputs[0])]
    return any(_is_read_as_weight([each]) and each[0].op_type in _PRODUCTS for each in (*readers, *scaled))


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
    if node is None or node.op_type not in _PRODUCTS:
        return False
    return any(each is not None and each.is_initializer() for each in node.inputs[:2])


def tell_others(others: Sequence[ir.Value]) -> None:
    """Name what is no weight by its use; a warning, if it may be a parameter of a module."""
    doubtful = [v.name or "" for v in others if _KIND not in v.metadata_props and _may_be_parameter(v)]
    if doubtful:
        _log.warning(
            "requires_grad: not trained, since nothing says that they are weights: %s; list what trains in "
            "requires_grad, or these in frozen_params",
            listed(doubtful),
        )
    rest = [value.name or "" for value in others if value.name not in doubtful]
    if rest:
        _log.info("requires_grad: not trained, since nothing says that they are weights: %s", ", ".join(rest))


def tell_guessed(trained: Sequence[ir.Value]) -> None:
    """Warn of what trains without a mark, in a file whose exporter marks parameters.

    It is what the exporter computed: from a parameter, or from constants, such as sines of positions.
    """
    guessed = []
    for value in trained:
        read = list(_readers(value))
        biases = any(node.op_type == "Add" and _is_layers(node.inputs[1 - index]) for node, index in read)
        if _KIND not in value.metadata_props and not biases and not _is_read_as_weight(read):
            guessed.append(value.name or "")
    if guessed:
        _log.warning(
            "requires_grad: trained, though the exporter does not mark them as parameters: %s; list in frozen_params "
            "those that are constants",
            listed(guessed),
        )


def _may_be_parameter(value: ir.Value) -> bool:
    """Whether a module may have a parameter of this name, or one from which an exporter computed this."""
    if _changes_nothing(value, list(_readers(value)), marked=True):
        return False
    if not is_made_up(value):
        return _has_name_of_parameter(value)
    if value.const_value is None or value.const_value.size <= 1 or _masks(value):
        return False
    array = value.const_value.numpy()
    return bool((array != array.flat[0]).any()) and any(node.op_type in _JOINING for node, _ in _readers(value))


def _has_name_of_parameter(value: ir.Value) -> bool:
    return _OF_A_MODULE.fullmatch(value.name or "") is not None


def tell_narrow(values: Iterable[ir.Value], *, trains: bool) -> None:
    """Warn of weights of 16 bits, which do not train.

    Args:
        values: the initializers that nobody said not to train.
        trains: whether anything else does.

    Raises:
        OnnxCbpError: nothing else does; one line.
    """
    narrow = [value for value in values if value.dtype in _NARROW]
    marked = are_marked(narrow)
    weights = [value for value in narrow if is_weight(value, marked=marked)]
    if not weights:
        return
    kinds = " or ".join(sorted({str(value.dtype) for value in weights}))
    names = listed([value.name or "" for value in weights])
    mend = "export the model with float weights, of which autocast computes in 16 bits"
    if not trains:
        raise OnnxCbpError(
            f"requires_grad: what trains is float or double, and these weights are {kinds}: {names}; {mend}"
        )
    _log.warning("requires_grad: not trained, since they are %s: %s; %s", kinds, names, mend)


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
