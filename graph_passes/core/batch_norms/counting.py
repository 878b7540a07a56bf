"""Names of the counters that count the batches of a batch norm."""

from __future__ import annotations

import onnx_ir as ir

_COUNTER = "num_batches_tracked"
_MEAN = "running_mean"


def counter_of(running_mean: ir.Value) -> str:
    """The name of the counter that belongs to a running mean: PyTorch's name, if the mean has one."""
    name = running_mean.name or ""
    return f"{name.removesuffix(_MEAN)}{_COUNTER}" if name.endswith(_MEAN) else f"{name}.{_COUNTER}"
