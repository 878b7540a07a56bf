"""Seeds tried one after the other in child processes, so that one that ends its process is a result like others."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Seconds of its processor's time that a stage may take before its process is ended: the call's ten, and more.
_PATIENCE = 30.0
#: What runs models as they came: a crash there is not ours, nor is a model that runs for ever.
_OTHERS = ("original",)
_PATIENCE_WITH_OTHERS = 10.0
#: Seconds of a clock that no stage takes on any machine: one that waits for something takes no processor's time.
_STUCK = 600.0


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
        how = ", ".join(f"{why} {number}" for why, number in sorted(Counter(why for _, why in self.elsewhere).items()))
        lines += [f"{len(self.elsewhere)} mutated models end or block ONNX Runtime itself: {how}"] * bool(how)
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
    command = [sys.executable, str(Path(__file__).with_name("child.py")), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        while seed < first + count and time.monotonic() < end:
            reached, stage = _in_a_copy(
                server, seed, first + count - seed, end - time.monotonic(), sorted(skipped), result
            )
            if stage is None:
                break
            if reached != seed:
                skipped = set()
            seed = reached
            name, why = stage
            if name in _OTHERS:
                result.elsewhere.append((seed, f"{name}: {why}"))
                print(f"seed {seed}: ONNX Runtime itself: {why}", file=sys.stderr, flush=True)
            else:
                result.faults.append((seed, f"{name}: {why}"))
                print(f"seed {seed}: {name}: {why}", file=sys.stderr, flush=True)
            if name == "generate" or name in skipped:
                seed, skipped = seed + 1, set()
            else:
                skipped.add(name)
    return result


def _in_a_copy(
    server: subprocess.Popen[bytes], seed: int, count: int, seconds: float, skipped: list[str], result: Campaign
) -> tuple[int, tuple[str, str] | None]:
    """One process; the seed and the stage at which it ended, and how; no stage where it ended well."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps([seed, count, max(seconds, 1.0), skipped]).encode() + b"\n")
    server.stdin.flush()
    pid, stage, why, pending, begun, heard = server.pid, "generate", "", b"", 0.0, time.monotonic()
    while True:
        ready, _, _ = select.select([server.stdout], [], [], 1.0)
        if not ready:
            patience = _PATIENCE_WITH_OTHERS if stage in _OTHERS else _PATIENCE
            is_over = _busy(pid) - begun > patience
            if not why and (is_over or time.monotonic() - heard > _STUCK):
                why = f"over {patience:.0f} s of the processor's time" if is_over else f"no word for {_STUCK:.0f} s"
                os.kill(pid, signal.SIGKILL)
            continue
        content, heard = os.read(server.stdout.fileno(), 1 << 16), time.monotonic()
        if not content:
            raise RuntimeError(f"the fuzzer itself ended with {server.wait()}: see what python {server.args} prints")
        *lines, pending = (pending + content).split(b"\n")
        for line in lines:
            said: dict[str, Any] = json.loads(line)
            if "end" in said:
                return seed, (stage, why or f"the process ended with {said['end']}") if why or said["end"] else None
            if "pid" in said:
                pid, begun = said["pid"], 0.0
            elif "at" in said:
                seed, stage, begun = said["at"], said["stage"], _busy(pid)
            else:
                _take(said, result)
                seed, stage, begun = said["done"] + 1, "generate", _busy(pid)


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
