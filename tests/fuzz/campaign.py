"""Seeds tried one after the other in child processes, so that one that ends its process is a result like others."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Seconds of its processor's time that a stage may take before its process is ended: ten, and what starting costs.
_PATIENCE = 30.0
#: What runs models as they came, or only makes them: a crash there is not ours.
_OTHERS = ("original", "generate")


@dataclass
class Campaign:
    """What came of a campaign.

    Attributes:
        attempts: seeds that were tried to the end.
        compared: models whose results were held against the original's.
        calls: outcomes of calls, by (call, outcome).
        faults: (seed, what is wrong) of every undocumented exception, difference, crash and call over 10 seconds.
        elsewhere: crashes and hangs of ONNX Runtime on the mutated model itself.
    """

    attempts: int = 0
    compared: int = 0
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)
    elsewhere: list[tuple[int, str]] = field(default_factory=list)

    def told(self) -> str:
        """The numbers, and every fault."""
        calls = ", ".join(f"{call} {outcome} {number}" for (call, outcome), number in sorted(self.calls.items()))
        lines = [f"{self.attempts} seeds, {self.compared} results compared: {calls}"]
        lines += [f"{len(self.elsewhere)} of the mutated models end or block ONNX Runtime itself"] * bool(
            self.elsewhere
        )
        return "\n".join([*lines, *(f"seed {seed}: {fault}" for seed, fault in self.faults)])


def run(kind: str, first: int, count: int, seconds: float) -> Campaign:
    """Try `count` seeds from `first` on, or as many as there is time for.

    Args:
        kind: "models" or "calls".
        first, count: the seeds.
        seconds: how long no new seed is begun after.
    """
    result, seed, end = Campaign(), first, time.monotonic() + seconds
    skipped: set[str] = set()
    while seed < first + count and time.monotonic() < end:
        reached, stage = _child(kind, seed, first + count - seed, end - time.monotonic(), sorted(skipped), result)
        if stage is None:
            break
        if reached != seed:
            skipped = set()
        seed = reached
        name, why = stage
        if name in _OTHERS:
            result.elsewhere.append((seed, f"{name}: {why}"))
        else:
            result.faults.append((seed, f"{name}: {why}"))
            print(f"seed {seed}: {name}: {why}", file=sys.stderr, flush=True)
        if name == "generate" or name in skipped:
            seed, skipped = seed + 1, set()
        else:
            skipped.add(name)
    return result


def _child(
    kind: str, seed: int, count: int, seconds: float, skipped: list[str], result: Campaign
) -> tuple[int, tuple[str, str] | None]:
    """One process; the seed and the stage at which it ended, and how; no stage where it ended well."""
    arguments = [kind, str(seed), str(count), str(max(seconds, 1.0)), *skipped]
    command = [sys.executable, str(Path(__file__).with_name("child.py")), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        stage, pending, begun = "generate", b"", _busy(child.pid)
        while True:
            ready, _, _ = select.select([child.stdout], [], [], 1.0)
            if ready:
                content = os.read(child.stdout.fileno(), 1 << 16)
                if not content:
                    break
                *lines, pending = (pending + content).split(b"\n")
                for line in lines:
                    said: dict[str, Any] = json.loads(line)
                    if "end" in said:
                        child.wait()
                        return seed, None
                    if "at" in said:
                        seed, stage, begun = said["at"], said["stage"], _busy(child.pid)
                    else:
                        _take(said, result)
                        seed, stage, begun = said["done"] + 1, "generate", _busy(child.pid)
            elif _busy(child.pid) - begun > _PATIENCE:
                child.kill()
                child.wait()
                return seed, (stage, f"over {_PATIENCE:.0f} s of the processor's time")
        return seed, (stage, f"the process ended with {child.wait()}")


def _busy(pid: int) -> float:
    """Seconds that a process has had the processor."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _take(said: dict[str, Any], result: Campaign) -> None:
    result.attempts += 1
    if result.attempts % 1000 == 0:
        print(f"{result.attempts} seeds, {len(result.faults)} faults", file=sys.stderr, flush=True)
    result.compared += said["compared"]
    result.calls.update((call, outcome) for call, outcome in said["calls"].items())
    for fault in (*said["faults"], *said["slow"]):
        result.faults.append((said["done"], f"{fault} {said['mutations']}"))
        print(f"seed {said['done']}: {fault} {said['mutations']}", file=sys.stderr, flush=True)
