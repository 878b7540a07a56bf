"""Runs the kernel benchmark: for each shape and kernel, it compares results, then measures in rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_cbp.bench.agreement import largest_difference
from onnx_cbp.bench.data import write_inputs
from onnx_cbp.bench.dtypes import DTYPES
from onnx_cbp.bench.kernels import KERNELS, Kernel
from onnx_cbp.bench.results import PeerTimes, Row
from onnx_cbp.bench.rounds import Candidate, take_rounds
from onnx_cbp.bench.runtimes import Runtime, Worker, WorkerError
from onnx_cbp.bench.shapes import Shape, ShapeSet
from onnx_cbp.bench.tasks import own_task, peer_task
from onnx_cbp.errors import OnnxCbpError

TOLERANCES = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 2e-2}
_OURS = "ours"
_READ = "read"


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    ops: tuple[str, ...] = tuple(KERNELS)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 9
    data: str = "float32"
    seed: int = 0
    quick: bool = False

    @property
    def round_seconds(self) -> float:
        """About how long all runs of one round may take."""
        return 0.001 if self.quick else 0.02

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "tolerance": TOLERANCES[self.data], "round_seconds": self.round_seconds}


class Bench:
    """The workers, and the tasks that they run. A context manager: leaving it ends the workers."""

    def __init__(self, settings: Settings, own: Runtime, runtimes: Sequence[Runtime], library: str) -> None:
        self.settings = settings
        self._library = library
        with ExitStack() as stack:
            self._own = stack.enter_context(Worker(own))
            self._read = stack.enter_context(Worker(Runtime(_READ, own.python, "read")))
            self._peers: list[Worker] = []
            for runtime in runtimes:
                worker = stack.enter_context(Worker(runtime))
                if any(_same(worker, other) for other in self._peers):
                    worker.close()
                else:
                    self._peers.append(worker)
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onnx-cbp-bench-")))
            self._stack = stack.pop_all()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def versions(self) -> Mapping[str, Mapping[str, Any]]:
        """The versions of each process's Python and libraries."""
        return {w.runtime.name: w.versions for w in (self._own, *self._peers)}

    def run(self, shapes: ShapeSet) -> Iterator[Row]:
        """Every kernel on every shape of a set."""
        for given in shapes.shapes:
            shape = given.quick() if self.settings.quick else given
            inputs = write_inputs(shape, self.settings.data, self.settings.seed, self._folder)
            for op in self.settings.ops:
                for threads in self.settings.threads:
                    yield self._row(shapes.name, shape, KERNELS[op], threads, inputs)
            self._release(inputs=True)

    def _row(self, set_name: str, shape: Shape, kernel: Kernel, threads: int, inputs: Mapping[str, Path]) -> Row:
        data = self.settings.data
        size = kernel.tensors * shape.elements * DTYPES[data].itemsize
        ours = Candidate(self._own, _OURS)
        read = Candidate(self._read, _READ)
        try:
            task = own_task(kernel, shape, data, inputs, self._library)
            self._own.ask("prepare", id=_OURS, threads=threads, task=task)
            self._read.ask("prepare", id=_READ, threads=threads, task={"bytes": size})
            results = ours.outputs(self._folder)
        except WorkerError as error:
            raise OnnxCbpError(f"{kernel.op} on {list(shape.dimensions)} cannot be measured: {error}") from None
        peers: list[PeerTimes] = []
        candidates = [ours, read]
        for worker in self._peers:
            for peer, candidate in self._prepared(worker, kernel, shape, threads, inputs, results):
                peers.append(peer)
                if candidate is not None:
                    candidate.times = peer.times
                    candidates.append(candidate)
        take_rounds(candidates, self.settings.rounds, self.settings.round_seconds)
        self._release(inputs=False)
        return Row(set_name, shape, kernel.op, data, threads, size, ours.times, read.times, peers)

    def _prepared(
        self,
        worker: Worker,
        kernel: Kernel,
        shape: Shape,
        threads: int,
        inputs: Mapping[str, Path],
        results: Mapping[str, np.ndarray],
    ) -> Iterator[tuple[PeerTimes, Candidate | None]]:
        """The peers that a runtime has, each with its candidate if its results agree with ours."""
        for number, definition in enumerate(p for p in kernel.peers if p.library == worker.runtime.library):
            column = f"{worker.runtime.name}: {definition.family}"
            peer = PeerTimes(column, worker.runtime.name, definition.name)
            candidate = Candidate(worker, str(number))
            task = peer_task(definition, shape, self.settings.data, inputs)
            if task is None:
                peer.missing = "not for this layout"
                yield peer, None
                continue
            try:
                worker.ask("prepare", id=candidate.id, threads=threads, task=task)
                theirs = candidate.outputs(self._folder)
            except WorkerError as error:
                peer.missing = str(error)
                yield peer, None
                continue
            peer.difference = largest_difference(results, theirs)
            peer.agrees = peer.difference <= TOLERANCES[self.settings.data]
            if not peer.agrees:
                peer.missing = f"its results differ from ours by {peer.difference:.1e}"
            yield peer, candidate if peer.agrees else None

    def _release(self, *, inputs: bool) -> None:
        for worker in (self._own, self._read, *self._peers):
            worker.ask("release", inputs=inputs)


def _same(one: Worker, other: Worker) -> bool:
    """Whether both have the same build of a library, which is then measured only once."""
    library = one.runtime.library
    return all(one.versions.get(what) == other.versions.get(what) for what in (library, "build"))
