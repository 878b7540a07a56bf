"""How long calls take: in rounds that take turns, so that all meet the same clocks, and medians of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], Any]


def milliseconds(device: str, call: Call, calls: int) -> float:
    """Of one of so many calls behind one another: by CUDA's events, or by the clock on the processor."""
    if device != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) * 1e3 / calls
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / calls


def medians(device: str, contenders: Mapping[str, Call], *, rounds: int, budget: float) -> dict[str, float]:
    """Milliseconds a call of each, where a turn of one takes about `budget` milliseconds."""
    calls = {}
    for name, call in contenders.items():
        call()  # makes what is made once
        calls[name] = max(1, min(100, int(budget / max(milliseconds(device, call, 1), 1e-3))))
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            measured[name].append(milliseconds(device, call, calls[name]))
    return {name: statistics.median(values) for name, values in measured.items()}
