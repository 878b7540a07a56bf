"""Runs candidates in turns, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnx_cbp.bench.results import Times
from onnx_cbp.bench.runtimes import Worker, WorkerError
from onnx_cbp.errors import OnnxCbpError

_MOST_RUNS = 10_000


@dataclass
class Candidate:
    """A task that is prepared in a worker."""

    worker: Worker
    id: str
    times: Times = field(default_factory=Times)
    runs: int = 1

    def outputs(self, folder: Path) -> dict[str, np.ndarray]:
        """The results of one run, by name; the folder is for files on their way here.

        Raises:
            WorkerError: it cannot be run.
        """
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            answer = self.worker.ask("outputs", id=self.id, folder=scratch)
            return {name: np.load(path) for name, path in answer["paths"].items()}

    def warm_up(self, seconds: float) -> None:
        """Run until caches and pools are warm, and find out how many runs make a round."""
        self._time(1)
        once = self._time(1)
        if once < seconds:  # anything slower runs once per round
            once = min(once, self._time(2))
        self.runs = min(max(math.ceil(seconds / max(once, 1e-7)), 1), _MOST_RUNS)

    def round(self) -> None:
        """One round."""
        self.times.rounds.append(self._time(self.runs))

    def _time(self, runs: int) -> float:
        return float(self.worker.ask("time", id=self.id, runs=runs)["seconds"])


def take_rounds(candidates: Sequence[Candidate], rounds: int, seconds: float) -> None:
    """Measure candidates in rounds; in each round, all of them run for about so many seconds, and at least once.

    Raises:
        OnnxCbpError: a worker stopped.
    """
    try:
        for candidate in candidates:
            candidate.warm_up(seconds)
        for number in range(rounds):
            # Another one starts each round, so that the order does not matter.
            first = number % len(candidates)
            for candidate in (*candidates[first:], *candidates[:first]):
                candidate.round()
    except WorkerError as error:
        raise OnnxCbpError(f"a worker stopped while it was measured: {error}") from None
