"""Runs the step benchmark: compares both graphs, then measures time in rounds, a profile and memory."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx_cbp.bench.rounds import Candidate, take_rounds
from onnx_cbp.bench.runtimes import Runtime, Worker, WorkerError
from onnx_cbp.bench.training_steps.step_models import BenchModel, Graph, prepare
from onnx_cbp.bench.training_steps.step_results import BatchNormTime, Memory, StepRow
from onnx_cbp.errors import OnnxCbpError

_WORKER = Path(__file__).parent / "step_worker.py"
_STEP = "step"
_LEAST_PROFILED_STEPS = 3
_MOST_PROFILED_STEPS = 30
#: From the second step on, ONNX Runtime knows the sizes of all tensors, and plans their memory again.
_STEPS_TO_THE_PEAK = 3
_QUICK_BATCH = 4
#: Large tensors are mapped when they are created and unmapped when they are freed: so resident memory is used memory.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}


@dataclass(frozen=True)
class StepSettings:
    """How to measure.

    Attributes:
        models: folders of training artifacts, or .onnx files.
        batch: the size of symbolic dimensions of the inputs.
        threads: numbers of threads of each session, measured one after another.
        rounds: how many rounds medians are taken over.
        seed: of the random inputs.
        quick: whether to use short rounds of a small batch.
    """

    models: tuple[str, ...]
    batch: int = 32
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 9
    seed: int = 0
    quick: bool = False

    @property
    def round_seconds(self) -> float:
        """About how long all steps of a round take, unless a single step takes longer."""
        return 0.001 if self.quick else 0.2

    @property
    def used_batch(self) -> int:
        """The batch size, or the small one of a quick run."""
        return min(self.batch, _QUICK_BATCH) if self.quick else self.batch

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "round_seconds": self.round_seconds}


class StepBench:
    """Measures training steps. Each variant has its own processes, of which one works at a time."""

    def __init__(self, settings: StepSettings, library: str) -> None:
        self.settings = settings
        #: Versions of Python and the libraries that run both variants; known after the first measurement.
        self.versions: dict[str, Mapping[str, Any]] = {}
        self._library = library

    def run(self, given: str) -> Iterator[StepRow]:
        """A row for each number of threads.

        Raises:
            OnnxCbpError: one line that names the model: it cannot be read, rewritten, loaded or run.
        """
        with tempfile.TemporaryDirectory(prefix="onnx-cbp-bench-") as scratch:
            folder = Path(scratch)
            batch = self.settings.used_batch
            model = prepare(given, folder, self._library, batch, self.settings.seed)
            for threads in self.settings.threads:
                row = StepRow(model.name, model.step, batch, threads, model.difference, model.agrees)
                if model.agrees:
                    try:
                        self._measure(model, row, folder)
                    except WorkerError as error:
                        raise OnnxCbpError(f"'{given}' cannot be measured: {error}") from None
                yield row

    def _measure(self, model: BenchModel, row: StepRow, folder: Path) -> None:
        both = ((model.original, row.original), (model.rewritten, row.rewritten))
        with ExitStack() as stack:
            workers = [stack.enter_context(self._worker({})) for _ in both]
            candidates = []
            for worker, (graph, variant) in zip(workers, both, strict=True):
                worker.ask("prepare", id=_STEP, threads=row.threads, task=model.task(graph))
                candidates.append(Candidate(worker, _STEP, variant.times))
            take_rounds(candidates, self.settings.rounds, self.settings.round_seconds)
            for candidate, (graph, variant) in zip(candidates, both, strict=True):
                candidate.worker.ask("release", inputs=True)
                variant.batch_norm = _profile(candidate, model, graph, row.threads, folder / "profile")
        for graph, variant in both:
            variant.memory = self.memory(model, graph, row.threads)
            variant.live = self.memory(model, graph, row.threads, arena=False)

    def memory(self, model: BenchModel, graph: Graph, threads: int, *, arena: bool = True) -> Memory:
        """The memory of the first steps, in a process that has done nothing before.

        Args:
            model: the model of the graph.
            graph: the original or the rewritten one.
            threads: threads of the session.
            arena: with ONNX Runtime's arena, as users have it; without it, freed memory is returned at once.

        Raises:
            WorkerError: the steps cannot be run.
        """
        with self._worker({} if arena else _GIVE_BACK) as worker:
            worker.ask("prepare", id=_STEP, threads=threads, task=model.task(graph, arena=arena))
            answer = worker.ask("memory", id=_STEP, runs=_STEPS_TO_THE_PEAK)
            return Memory(int(answer["before"]), int(answer["peak"]))

    def _worker(self, environment: Mapping[str, str]) -> Worker:
        worker = Worker(Runtime("this", sys.executable, "onnxruntime"), _WORKER, environment)
        self.versions["this"] = worker.versions
        return worker


def _profile(candidate: Candidate, model: BenchModel, graph: Graph, threads: int, prefix: Path) -> BatchNormTime:
    worker = candidate.worker
    worker.ask("prepare", id=_STEP, threads=threads, task=model.task(graph, profile=prefix))
    answer = worker.ask(
        "profile",
        id=_STEP,
        warm_up=candidate.runs + 1,
        runs=min(max(candidate.runs, _LEAST_PROFILED_STEPS), _MOST_PROFILED_STEPS),
        prefix=str(prefix),
        nodes=graph.batch_norms,
    )
    found = int(answer["found"])
    return BatchNormTime(
        found, len(graph.batch_norms) - found, float(answer["nodes_seconds"]), float(answer["seconds"])
    )
