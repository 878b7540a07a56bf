"""Models as onnx-ir's, and back; one clear line for what is not valid."""

from __future__ import annotations

import logging
import os

import onnx
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.model_io import load_model

ModelSource = onnx.ModelProto | str | os.PathLike[str]


def read_model(model: ModelSource) -> onnx.ModelProto:
    """The model itself, or the one in the file of that path.

    Raises:
        OnnxCbpError: the file cannot be read.
    """
    return model if isinstance(model, onnx.ModelProto) else load_model(model)


def to_ir(model: onnx.ModelProto) -> ir.Model:
    """The model as onnx-ir's.

    Raises:
        OnnxCbpError: it is not valid ONNX, or has what onnx-ir would lose.
    """
    _refuse_sparse_subgraphs(model.graph)
    serde = logging.getLogger("onnx_ir.serde")
    disabled, serde.disabled = serde.disabled, True  # it does not know sparse initializers, and says so of each use
    try:
        return ir.from_proto(model)
    except Exception as error:  # onnx-ir wraps whatever it meets
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())
        raise OnnxCbpError(f"the model is not valid ONNX: {reason}") from error
    finally:
        serde.disabled = disabled


def _refuse_sparse_subgraphs(graph: onnx.GraphProto) -> None:
    """Raise for what onnx-ir would lose: a sparse initializer anywhere but in the main graph."""
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                if subgraph.sparse_initializer:
                    name = subgraph.sparse_initializer[0].values.name
                    raise OnnxCbpError(
                        f"node '{node.name or node.output[0]}' has a subgraph with the sparse initializer '{name}', "
                        "which a rewrite cannot keep: make it dense"
                    )
                _refuse_sparse_subgraphs(subgraph)


def to_proto(result: ir.Model, source: onnx.ModelProto) -> onnx.ModelProto:
    """An onnx-ir model as ONNX's, with what onnx-ir does not carry of the `source` that it was made of.

    Raises:
        OnnxCbpError: it is not valid ONNX.
    """
    try:
        model = ir.to_proto(result)
    except Exception as error:  # onnx-ir wraps whatever it meets
        raise OnnxCbpError(f"the model is not valid ONNX: {' '.join(str(error).split())}") from error
    # onnx-ir does not carry these two; a rewrite never touches what they hold.
    model.training_info.extend(source.training_info)
    model.graph.sparse_initializer.extend(source.graph.sparse_initializer)
    return model
