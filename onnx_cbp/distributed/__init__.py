"""Replicas: training across threads, processes and machines as one (docs/distributed.md).

onnx_cbp.distributed.initialize("mpi")       # or "torch", "threads"; every replica calls it
...                                          # sessions whose graphs have AllGather and AllReduce
onnx_cbp.distributed.finalize()
"""

from onnx_cbp.distributed.communicator import CommunicationError, Communicator
from onnx_cbp.distributed.lifecycle import (
    finalize,
    initialize,
    is_initialized,
    rank,
    without_samples,
    world_size,
)
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
