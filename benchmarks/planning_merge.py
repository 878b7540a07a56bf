"""What AllGather and ChannelStatsMerge do with gathered bytes, by themselves: for docs/internals/planning.md.

    python benchmarks/planning_merge.py [--replicas 512] [--channels 512]

One process, and a communicator that hands it its own message R times, which costs what writing that memory costs; this
part is timed too and taken off.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper
from resnet50 import forward_bytes

import onnx_cbp
from onnx_cbp import distributed
from onnx_cbp.distributed import Communicator


class Echo(Communicator):
    """A replica among many that all say the same."""

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size
        self.seconds = 0.0

    def all_reduce(self, message: np.ndarray) -> None:
        """The sum of equal messages."""
        message *= self.size

    def all_gather(self, message: np.ndarray, gathered: np.ndarray) -> None:
        """The same message, from everyone."""
        start = time.perf_counter()
        gathered[:] = message
        self.seconds = time.perf_counter() - start

    def split(self, partition: Sequence[Sequence[int]]) -> Echo:  # noqa: ARG002 there is one group
        """The same replicas."""
        return self

    def close(self, failed: bool) -> None:
        """Nothing is held."""


def session(channels: int) -> ort.InferenceSession:
    """AllGather, then ChannelStatsMerge."""
    nodes = [
        helper.make_node(
            "AllGather", ["m", "v", "n"], ["ms", "vs", "ns"], domain="onnx_cbp", group="world", layer="a layer"
        ),
        helper.make_node("ChannelStatsMerge", ["ms", "vs", "ns"], ["mean", "var", "count"], domain="onnx_cbp"),
    ]
    number, count = TensorProto.FLOAT, TensorProto.INT64
    inputs = [("m", number, [channels]), ("v", number, [channels]), ("n", count, [])]
    outputs = [("mean", number, [channels]), ("var", number, [channels]), ("count", count, [])]
    fed, returned = ([helper.make_tensor_value_info(*formal) for formal in side] for side in (inputs, outputs))
    model = helper.make_model(
        helper.make_graph(nodes, "merge", fed, returned),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("onnx_cbp", 1)],
        ir_version=8,
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    onnx_cbp.register(options, "native")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Print nanoseconds a gathered byte."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=512)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    runner, echo = session(arguments.channels), Echo(arguments.replicas)
    values = np.ones(arguments.channels, np.float32)
    feeds = {"m": values, "v": values, "n": np.array(1)}
    distributed.initialize(echo)
    runner.run(None, feeds)
    taken = []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        runner.run(None, feeds)
        taken.append(time.perf_counter() - start - echo.seconds)
    distributed.finalize()
    gathered = arguments.replicas * forward_bytes(arguments.channels)
    each = [seconds / gathered * 1e9 for seconds in taken]
    print(f"{gathered / 1e6:.1f} MB gathered: {statistics.median(each):.2f} ns a byte, at best {min(each):.2f}")


if __name__ == "__main__":
    main()
