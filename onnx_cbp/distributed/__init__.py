"""Replicas: training across threads, processes and machines as one (docs/distributed.md).

onnx_cbp.distributed.initialize("mpi")       # or "torch", "threads"; every replica calls it
...                                          # sessions whose graphs have AllGather and AllReduce
onnx_cbp.distributed.finalize()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_cbp.lazy import on_first_use

if TYPE_CHECKING:
    from onnx_cbp.distributed.communicator import CommunicationError, Communicator
    from onnx_cbp.distributed.lifecycle import finalize, initialize, rank, without_samples, world_size
    from onnx_cbp.distributed.membership import is_initialized
    from onnx_cbp.distributed.run import run_replicas

__all__ = [
    "CommunicationError",
    "Communicator",
    "finalize",
    "initialize",
    "is_initialized",
    "rank",
    "run_replicas",
    "without_samples",
    "world_size",
]

#: Imported on first use: the ops read who is a replica (`membership`), and joining needs the ops.
_NAMES = {
    "CommunicationError": "onnx_cbp.distributed.communicator",
    "Communicator": "onnx_cbp.distributed.communicator",
    "finalize": "onnx_cbp.distributed.lifecycle",
    "initialize": "onnx_cbp.distributed.lifecycle",
    "is_initialized": "onnx_cbp.distributed.membership",
    "rank": "onnx_cbp.distributed.lifecycle",
    "run_replicas": "onnx_cbp.distributed.run",
    "without_samples": "onnx_cbp.distributed.lifecycle",
    "world_size": "onnx_cbp.distributed.lifecycle",
}
_MODULES = ("communicator", "groups", "lifecycle", "membership", "native", "replica", "run", "uncaught")
_ENGINES = ("mpi", "threads", "torch")

__getattr__, __dir__ = on_first_use(__name__, globals(), modules=_MODULES + _ENGINES, names=_NAMES)
