"""Changes the original if ONNX Runtime would not compute what the model says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx

from onnx_cbp.checking.graphs import is_standard, nodes
from onnx_cbp.checking.models import Model

_STATISTICS = (3, 4)
_RESULTS = 3
_Holder = onnx.GraphProto | onnx.FunctionProto


def as_meant(model: Model) -> Model:
    """The model to run: itself, unless its batch norms would destroy tensors that they share.

    ONNX Runtime's BatchNormalization overwrites the running statistics that it reads. If the running variance and the
    scale, say, are one tensor (de-duplicating tools do this to a fresh model), it destroys the scale while it still
    reads it. Such statistics are copied first. Merging by the optimiser can be switched off, but this cannot.
    """
    model = with_statistics(model)
    reads = Counter(name for holder in _holders(model.graph) for n in holder.node for name in n.input)
    if not any(reads[n.input[i]] > 1 for h in _holders(model.graph) for n in h.node for i in _written(n, h)):
        return model
    copy = model.copy()
    for number, holder in enumerate(_holders(copy)):
        _copy_statistics(holder, f"onnx_cbp_check/{number}")
    return Model(model.what, copy, copy)


def with_statistics(model: Model) -> Model:
    """The model to run: itself, unless a batch norm that trains omits its updated statistics.

    ONNX allows this, but ONNX Runtime (1.17 to 1.32) crashes or refuses. So these outputs get names that nobody reads.
    """
    if not any(_leaves_out(node, holder) for holder in _holders(model.graph) for node in holder.node):
        return model
    copy = model.copy()
    for number, holder in enumerate(_holders(copy)):
        for place, node in enumerate(holder.node):
            if _leaves_out(node, holder):
                unread = [f"onnx_cbp_check/left_out/{number}/{place}/{index}" for index in range(_RESULTS)]
                names = [*node.output, *[""] * _RESULTS][:_RESULTS]
                node.output[:] = [name or own for name, own in zip(names, unread, strict=True)]
    return Model(model.what, copy, copy)


def _leaves_out(node: onnx.NodeProto, holder: _Holder) -> bool:
    is_own = node.domain != "com.microsoft"  # com.microsoft's op has other outputs
    return is_own and bool(_written(node, holder)) and not (len(node.output) == _RESULTS and all(node.output))


def _copy_statistics(holder: _Holder, prefix: str) -> None:
    result: list[onnx.NodeProto] = []
    for node in holder.node:
        for index in _written(node, holder):
            own = f"{prefix}/{len(result)}"
            # Not Identity, since ONNX Runtime may let its output alias its input.
            result.append(onnx.helper.make_node("Concat", [node.input[index]], [own], axis=0))
            node.input[index] = own
        result.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in result]
    del holder.node[:]
    holder.node.extend(copies)


def _written(node: onnx.NodeProto, holder: _Holder) -> tuple[int, ...]:
    """The inputs that ONNX Runtime overwrites although the model does not say so."""
    if node.domain == "com.microsoft" and node.op_type == "BatchNormInternal":
        # Overwriting what the caller feeds is intended, but a constant may also be the input of another node.
        fed = {value if isinstance(value, str) else value.name for value in holder.input}
        return tuple(index for index in _STATISTICS if node.input[index] not in fed)
    training = any(a.name == "training_mode" and a.i for a in node.attribute)
    return _STATISTICS if is_standard(node) and node.op_type == "BatchNormalization" and training else ()


def _holders(model: onnx.ModelProto) -> Iterator[_Holder]:
    """The main graph, the functions, and every subgraph."""
    roots: list[_Holder] = [model.graph, *model.functions]
    for root in roots:
        yield root
        for node in nodes(root.node):
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield attribute.g
                yield from attribute.graphs
