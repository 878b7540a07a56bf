"""Measures the small end of docs/internals/planning.md: fits alpha and beta here, predicts ResNet-50's collectives.

    mpiexec -n 2 python benchmarks/planning_check.py [--rounds 15]

The fit knows single collectives of round sizes (256 bytes to 64 KiB), each called many times in a row. What it is held
against are the 106 collectives of a step, of other sizes and by turns; and a second time with the prices of the page.
All go through the engine, in buffers that all share, as the ops' do. Each process keeps to a core of its own, as far as
there are cores: two that the scheduler puts on one core wait for one another's spinning.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence

import alpha_beta
import numpy as np
from alpha_beta import Algorithm, Interconnect
from interconnects import SHARED_MEMORY
from resnet50 import DOUBLE, backward_bytes, batch_norms, forward_bytes

from onnx_cbp.distributed.mpi import MPICommunicator

SIZES = [2**k for k in range(8, 17)]
CALLS = 50
EAGER = SHARED_MEMORY.eager

Call = Callable[[], object]


class Collectives:
    """Collectives of the engine by size, and what the model takes them for."""

    def __init__(self, engine: MPICommunicator) -> None:
        self._engine = engine
        elements = max(SIZES) // DOUBLE
        self._own, self._every = np.zeros(elements), np.zeros(engine.size * elements)  # sums stay zero

    def gather(self, n: int) -> tuple[Algorithm, Call]:
        """AllGather of n bytes a replica."""
        size = self._engine.size
        own, every = self._own[: n // DOUBLE], self._every[: n // DOUBLE * size].reshape(size, -1)
        return alpha_beta.mpich_gather(n, size), lambda: self._engine.all_gather(own, every)

    def reduce(self, n: int) -> tuple[Algorithm, Call]:
        """AllReduce of n bytes."""
        own = self._own[: n // DOUBLE]
        return alpha_beta.mpich_reduce(n, self._engine.size, DOUBLE), lambda: self._engine.all_reduce(own)


def seconds(calls: Sequence[Call], meet: Call) -> float:
    """Of calls one behind the other, on this replica."""
    meet()
    start = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - start


def fit(algorithms: list[Algorithm], times: list[float]) -> Interconnect:
    """Prices that make the relative errors small (least squares); none is negative.

    The price of the call is in alpha: it cannot be told from that of the first step.
    """
    counts = np.array([_counts(algorithm) for algorithm in algorithms])
    weighted = counts / np.array(times)[:, None]
    used = list(range(4))
    while True:
        prices = np.zeros(4)
        prices[used] = np.linalg.lstsq(weighted[:, used], np.ones(len(times)), rcond=None)[0]
        if (prices >= 0).all():
            alpha, beta, gamma, handshake = map(float, prices)
            return Interconnect("fitted", alpha, beta, gamma, EAGER, handshake)
        used.remove(int(prices.argmin()))


def _counts(algorithm: Algorithm) -> list[float]:
    """How often each price is paid."""
    return [
        sum(steps.number for steps in algorithm),
        sum(steps.number * steps.moved for steps in algorithm),
        sum(steps.number * steps.summed for steps in algorithm),
        sum(steps.number for steps in algorithm if steps.moved > EAGER),
    ]


def main() -> None:
    """Measure on all replicas; print on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    engine = MPICommunicator.join(timeout=60)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[engine.rank % len(cores)]})
    collectives = Collectives(engine)
    _, meet = collectives.reduce(DOUBLE)

    singles = [collectives.gather(n) for n in SIZES] + [collectives.reduce(n) for n in SIZES]
    channels = batch_norms()
    step = {
        "forward": [collectives.gather(forward_bytes(c)) for c in channels],
        "backward": [collectives.reduce(backward_bytes(c)) for c in reversed(channels)],
    }
    of_singles: list[list[float]] = [[] for _ in singles]
    of_step: dict[str, list[float]] = {part: [] for part in step}
    for _ in range(arguments.rounds):
        for times, (_, call) in zip(of_singles, singles, strict=True):
            times.append(seconds([call] * CALLS, meet) / CALLS)
        for part, pairs in step.items():
            of_step[part].append(seconds([call for _, call in pairs], meet))

    single = [statistics.median(times) for times in of_singles]
    network = fit([algorithm for algorithm, _ in singles], single)
    if engine.rank == 0:
        print(f"{engine.size} processes on {len(cores)} cores, medians of {arguments.rounds} rounds")
        print(
            f"alpha {network.alpha * 1e6:.2f} us, beta {network.beta * 1e9:.3f} ns a byte, gamma "
            f"{network.gamma * 1e9:.3f} ns a byte, handshake {network.handshake * 1e6:.2f} us"
        )
        names = [f"{name} of {n} bytes" for name in ("AllGather", "AllReduce") for n in SIZES]
        for name, (algorithm, _), measured in zip(names, singles, single, strict=True):
            _tell(name, network.seconds(algorithm), measured, 1e6, "us")
        # The engine is called here without an op around it.
        of_page = dataclasses.replace(SHARED_MEMORY, call=0.0)
        for prices, priced in (("fitted", network), ("the page's", of_page)):
            models = {part: sum(priced.seconds(algorithm) for algorithm, _ in pairs) for part, pairs in step.items()}
            medians = {part: statistics.median(times) for part, times in of_step.items()}
            for part in step:
                _tell(f"53 {part}, {prices}", models[part], medians[part], 1e3, "ms")
            _tell(f"a step's 106, {prices}", sum(models.values()), sum(medians.values()), 1e3, "ms")
    engine.close(failed=False)


def _tell(what: str, model: float, measured: float, scale: float, unit: str) -> None:
    error = model / measured - 1
    print(f"{what:26} model {model * scale:9.3f}, measured {measured * scale:9.3f} {unit}, error {error:+.0%}")


if __name__ == "__main__":
    main()
