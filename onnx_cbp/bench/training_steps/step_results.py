"""Results of the step benchmark: one row for each graph and number of threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx_cbp.bench.results import Times


@dataclass(frozen=True)
class BatchNormTime:
    """The time of batch norms, from ONNX Runtime's profile of some steps.

    Attributes:
        nodes: how many batch-norm nodes the profile has: those that a rewrite replaces, or their replacements.
        unseen: how many it does not have, because ONNX Runtime's optimisations removed or renamed them.
        seconds: the time of their kernels in a step.
        step: the time of a step: all kernels, and the work outside of the graph.
    """

    nodes: int
    unseen: int
    seconds: float
    step: float

    @property
    def share(self) -> float:
        """Their part of a step, from 0 to 1."""
        return self.seconds / self.step

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "nodes": self.nodes,
            "unseen_nodes": self.unseen,
            "share": self.share,
            "kernels_s": self.seconds,
            "step_s": self.step,
        }


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a fresh process: only its own, without the pages of files (the code of libraries).

    Attributes:
        before: after the session was made, before anything runs.
        peak: the maximum during the first steps.
    """

    before: int
    peak: int

    @property
    def of_steps(self) -> int:
        """The memory of the steps: the peak minus what was there before."""
        return self.peak - self.before

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"steps_bytes": self.of_steps, "before_bytes": self.before, "peak_bytes": self.peak}


@dataclass
class Variant:
    """One of the two graphs.

    Attributes:
        times: seconds per step, by round.
        batch_norm: from a profile.
        memory: with the session as users have it.
        live: without ONNX Runtime's arena, and with freed memory returned at once: only what tensors and scratch space
            need, without the reserve of an allocator.
    """

    times: Times = field(default_factory=Times)
    batch_norm: BatchNormTime | None = None
    memory: Memory | None = None
    live: Memory | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.times.as_dict(),
            "batch_norm": None if self.batch_norm is None else self.batch_norm.as_dict(),
            "memory": None if self.memory is None else self.memory.as_dict(),
            "memory_without_arena": None if self.live is None else self.live.as_dict(),
        }


@dataclass
class StepRow:
    """A training step with one number of threads.

    Attributes:
        model: the path that was given.
        step: what a step computes.
        batch: the size of symbolic dimensions.
        threads: threads of each session.
        original, rewritten: the measurements.
        difference: between the two first outputs, before anything was measured.
        agrees: whether the difference is only rounding; only then anything is measured.
    """

    model: str
    step: str
    batch: int
    threads: int
    difference: float
    agrees: bool
    original: Variant = field(default_factory=Variant)
    rewritten: Variant = field(default_factory=Variant)

    @property
    def missing(self) -> str:
        """Why nothing was measured."""
        return "" if self.agrees else f"the first outputs of original and rewritten differ by {self.difference:.1e}"

    @property
    def ratios(self) -> list[float]:
        """The original's time over the rewritten's, by round."""
        pairs = zip(self.original.times.rounds, self.rewritten.times.rounds, strict=True)
        return [before / after for before, after in pairs]

    @property
    def ratio(self) -> float | None:
        """The original's median time over the rewritten's: above 1, the rewritten step is faster."""
        return self.original.times.median / self.rewritten.times.median if self.ratios else None

    @property
    def saved(self) -> float | None:
        """The part of the original's time that the rewritten step saves, from -inf to 1."""
        return None if self.ratio is None else 1 - 1 / self.ratio

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "step": self.step,
            "batch": self.batch,
            "threads": self.threads,
            "original": self.original.as_dict(),
            "rewritten": self.rewritten.as_dict(),
            "ratio": self.ratio,
            "ratio_rounds": self.ratios,
            "saved": self.saved,
            "difference": self.difference,
            "agrees": self.agrees,
            "missing": self.missing or None,
        }
