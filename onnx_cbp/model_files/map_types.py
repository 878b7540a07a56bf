"""Removes map types, which onnx-ir does not know, before a model is read, and restores them afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnx_cbp.validity.walking import graphs, scopes


def without_map_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, or a copy in which maps, and sequences of maps, have no type."""
    if not any(_has_map(info.type) for info in _infos(model)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for info in _infos(copy):
        if _has_map(info.type):
            info.ClearField("type")
    return copy


def restore_map_types(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Give each value without a type its type in the source, if that is a type of maps."""
    types = {info.name: info.type for info in _infos(source) if _has_map(info.type)}
    for info in _infos(model) if types else ():
        if info.name in types and info.type.WhichOneof("value") is None:
            info.type.CopyFrom(types[info.name])


def _has_map(proto: onnx.TypeProto) -> bool:
    kind = proto.WhichOneof("value")
    return kind == "map_type" or (
        kind in ("sequence_type", "optional_type") and _has_map(getattr(proto, kind).elem_type)
    )


def _infos(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """All declarations of values in a model: in the graph, in subgraphs, in functions."""
    for scope in scopes(model):
        for part in graphs(scope):
            if isinstance(part, onnx.GraphProto):
                yield from (*part.input, *part.output, *part.value_info)
            else:
                yield from getattr(part, "value_info", ())  # older onnx has none there
