"""Tells whether a model is the result of a rewrite, or was changed afterwards."""

from __future__ import annotations

import onnx
import onnx_ir as ir


def first_change(made: onnx.ModelProto, found: onnx.ModelProto) -> str | None:
    """The first difference in what the second model computes, in a few words; None if there is none.

    Order, node names, comments, metadata and declared shapes do not count.
    """
    return (
        _changed("node", _nodes(made), _nodes(found))
        or _changed("initializer", _initializers(made), _initializers(found))
        or _changed("function", _functions(made), _functions(found))
    )


def _changed(what: str, made: dict[str, bytes], found: dict[str, bytes]) -> str | None:
    for name in dict.fromkeys((*made, *found)):
        if made.get(name) != found.get(name):
            how = "missing" if name not in found else "more than there should be" if name not in made else "another"
            return f"{what} '{name}': {how}"
    return None


def _nodes(model: onnx.ModelProto) -> dict[str, bytes]:
    """What each node computes, by the name of its first output."""
    return {_first_output(node): _node(node) for node in model.graph.node}


def _first_output(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), node.name)


def _node(node: onnx.NodeProto) -> bytes:
    bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain, input=node.input, output=node.output)
    bare.attribute.extend(sorted(node.attribute, key=lambda a: a.name))
    return bare.SerializeToString(deterministic=True)


def _initializers(model: onnx.ModelProto) -> dict[str, bytes]:
    sparse = {t.values.name: t.SerializeToString(deterministic=True) for t in model.graph.sparse_initializer}
    return sparse | {tensor.name: _kind(tensor) + _content(tensor) for tensor in model.graph.initializer}


def _kind(tensor: onnx.TensorProto) -> bytes:
    return f"{tensor.data_type} {list(tensor.dims)} ".encode()


def _content(tensor: onnx.TensorProto) -> bytes:
    """The numbers, in whatever form the file has them; without onnx 1.17, which misreads bfloat16 under numpy 2.4."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return tensor.SerializeToString(deterministic=True)
    return bytes(ir.from_proto(tensor).tobytes())


def _functions(model: onnx.ModelProto) -> dict[str, bytes]:
    return {f"{f.domain}.{f.name}": b"".join(_node(node) for node in f.node) for f in model.functions}
