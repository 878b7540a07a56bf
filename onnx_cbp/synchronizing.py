"""`convert_sync_batchnorm`: PyTorch's name for a synchronised rewrite."""

from __future__ import annotations

import onnx

from onnx_cbp.ir_models import ModelSource


def convert_sync_batchnorm(model: ModelSource, process_group: str | None = None) -> onnx.ModelProto:
    """Let every batch norm of a model that trains take its statistics over the replicas.

    It does for a model what `torch.nn.SyncBatchNorm.convert_sync_batchnorm` does for a module, by
    `onnx_cbp.rewrite(model, synchronize=...)`.

    Args:
        model: a model or its path; it is not changed.
        process_group: a group that was given to `onnx_cbp.distributed.initialize`, or "size:K" for K consecutive
            replicas each; None: all replicas.

    Raises:
        OnnxCbpError: as `rewrite`.
    """
    from onnx_cbp.rewriting import rewrite

    return rewrite(model, synchronize=True if process_group is None else process_group)
