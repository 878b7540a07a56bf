"""Results of the kernel benchmark: one row for each kernel, shape and number of threads."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from onnx_cbp.bench.shapes import Shape
from onnx_cbp.checking.memory import physical_memory


@dataclass
class Times:
    """Seconds per run, one for each round."""

    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the best round shows how much other programs disturbed the run."""
        if not self.rounds:
            return {"median_s": None, "best_s": None, "rounds_s": []}
        return {"median_s": self.median, "best_s": min(self.rounds), "rounds_s": self.rounds}


@dataclass
class PeerTimes:
    """The results of a peer.

    Attributes:
        column: the runtime and the kind of kernels, as the table names them.
        runtime, name: where it ran, and what.
        difference: largest difference from our results, relative to the largest value of each.
        agrees: whether the difference is within the tolerance; a peer is measured only if it is.
        missing: why it was not measured, if it was not.
    """

    column: str
    runtime: str
    name: str
    times: Times = field(default_factory=Times)
    difference: float | None = None
    agrees: bool = True
    missing: str = ""


@dataclass
class Row:
    """One kernel on one shape with one number of threads."""

    set_name: str
    shape: Shape
    op: str
    data: str
    threads: int
    bytes: int
    ours: Times
    read: Times
    peers: list[PeerTimes]

    @property
    def gb_per_s(self) -> float:
        """The speed of our kernel, with each byte counted once."""
        return self.bytes / self.ours.median / 1e9

    @property
    def percent_of_read(self) -> float:
        """Our kernel's speed, in percent of the speed at which this many bytes can be read."""
        return 100 * self.read.median / self.ours.median

    @property
    def agrees(self) -> bool:
        """Whether every peer computes what we do."""
        return all(p.agrees for p in self.peers)

    def ratio(self, peer: PeerTimes) -> float | None:
        """The peer's time over ours: above 1, ours is faster."""
        return peer.times.median / self.ours.median if peer.times.rounds else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "set": self.set_name,
            "name": self.shape.name,
            "shape": list(self.shape.dimensions),
            "axis": self.shape.axis,
            "op": self.op,
            "type": self.data,
            "threads": self.threads,
            "bytes": self.bytes,
            **self.ours.as_dict(),
            "gb_per_s": self.gb_per_s,
            "read": self.read.as_dict(),
            "read_gb_per_s": self.bytes / self.read.median / 1e9,
            "percent_of_read": self.percent_of_read,
            "peers": [
                {
                    "column": p.column,
                    "runtime": p.runtime,
                    "kernel": p.name,
                    **p.times.as_dict(),
                    "ratio": self.ratio(p),
                    "difference": p.difference,
                    "agrees": p.agrees,
                    "missing": p.missing or None,
                }
                for p in self.peers
            ],
        }


class Result(Protocol):
    """A row of either benchmark."""

    @property
    def agrees(self) -> bool:
        """Whether everything that was compared computes the same."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ...


def as_document(
    rows: Sequence[Result],
    settings: Mapping[str, Any],
    versions: Mapping[str, Mapping[str, Any]],
    on: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole run for JSON; `on` is what `machine` returned before the run."""
    return {
        "machine": dict(on),
        "versions": {"onnx-cbp": _own_version(), "runtimes": {name: dict(v) for name, v in versions.items()}},
        "settings": dict(settings),
        "agrees": all(row.agrees for row in rows),
        "results": [row.as_dict() for row in rows],
    }


def machine() -> dict[str, Any]:
    """The processor, its cores, and the present load."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": physical_memory(),
        "system": platform.platform(),
        "load_average": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _own_version() -> str | None:
    try:
        return metadata.version("onnx-cbp")
    except metadata.PackageNotFoundError:
        return None
