"""What a collective costs inside an op, against the engine called directly: two processes under MPI.

    mpiexec -n 2 python benchmarks/collectives.py [--elements 512] [--rounds 30]

Both are timed in turns, in one run, and the medians and the best of the rounds are compared; a ratio says more than
either time, and the best ones more than the medians where other programs take the cores. The
op's time is that of a session's run of many AllReduce nodes, less that of the same session as a single replica: what is
left is what the ops' compute spends on communication.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from mpi4py import MPI
from onnx import TensorProto, helper

import onnx_cbp
from onnx_cbp import distributed

NODES = 64


def chain(elements: int) -> ort.InferenceSession:
    """A session of AllReduce nodes one behind the other, each with a message of `elements` doubles."""
    channels = elements // 2
    nodes = [
        helper.make_node(
            "AllReduce",
            [f"scale_{i}", f"bias_{i}"],
            [f"scale_{i + 1}", f"bias_{i + 1}"],
            domain="onnx_cbp",
            group="world",
            reduction="sum",
            layer=f"layer {i}",
        )
        for i in range(NODES)
    ]
    values = [
        [helper.make_tensor_value_info(f"{name}_{i}", TensorProto.FLOAT, [channels]) for name in ("scale", "bias")]
        for i in (0, NODES)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", *values),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("onnx_cbp", 1)],
        ir_version=8,
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    onnx_cbp.register(options, "native")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def microseconds(call: Callable[[], object], repetitions: int) -> float:
    """Of one call, the mean over the repetitions."""
    start = time.perf_counter()
    for _ in range(repetitions):
        call()
    return (time.perf_counter() - start) / repetitions * 1e6


def main() -> None:
    """Time both and print one line a figure, on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=512, help="doubles in a message")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    comm = MPI.COMM_WORLD
    message, result = np.ones(arguments.elements), np.empty(arguments.elements)
    values = np.ones(arguments.elements // 2, np.float32)
    session = chain(arguments.elements)
    feeds = {"scale_0": values, "bias_0": values}

    def run() -> object:
        return session.run(None, feeds)

    run()
    alone = statistics.median(microseconds(run, 20) for _ in range(arguments.rounds))
    distributed.initialize("mpi", timeout=60)
    run()
    ops, engine = [], []
    for _ in range(arguments.rounds):
        comm.Barrier()
        ops.append((microseconds(run, 10) - alone) / NODES)
        comm.Barrier()
        engine.append(microseconds(lambda: comm.Allreduce(message, result), 10 * NODES))
    op, direct = statistics.median(ops), statistics.median(engine)
    if comm.rank == 0:
        print(f"{comm.size} processes, AllReduce of {arguments.elements} doubles, medians of {arguments.rounds} rounds")
        print(f"engine called directly (MPI_Allreduce): {direct:.2f} us, at best {min(engine):.2f}")
        print(f"inside the op's compute:                {op:.2f} us, at best {min(ops):.2f}")
        print(f"ratio: {op / direct:.2f}, at best {min(ops) / min(engine):.2f}")
        print(f"a node of a single replica:             {alone / NODES:.2f} us")
    distributed.finalize()


if __name__ == "__main__":
    main()
