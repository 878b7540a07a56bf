"""`in_standard_ops`: makes a model's twin, in which ONNX's own ops replace ours."""

from __future__ import annotations

import onnx
import onnx.inliner

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.ir_models import ModelSource
from onnx_cbp.rewriting import rewrite


def in_standard_ops(model: ModelSource) -> onnx.ModelProto:
    """Replace our ops in a model by their function bodies.

    `check` and `bench` compare a rewritten model with its original. Artifacts that were generated with our ops have no
    original, so they are compared with their twin. Batch norms that are not rewritten yet are rewritten first.

    Args:
        model: a model or its path; it is not changed.

    Raises:
        OnnxCbpError: as `rewrite(model, portable=True)`, or an op has no body: collectives.
    """
    return inlined(rewrite(model, portable=True))


def inlined(portable: onnx.ModelProto) -> onnx.ModelProto:
    """A portable model, with function bodies instead of our ops.

    Raises:
        OnnxCbpError: an op has no body.
    """
    twin = onnx.inliner.inline_local_functions(portable)
    left = next((node for node in twin.graph.node if node.domain == DOMAIN), None)
    if left is not None:
        raise OnnxCbpError(
            f"node '{left.name}' is {left.op_type}, which no op of ONNX's computes: make the artifacts without "
            "synchronize and data_parallel"
        )
    return twin
