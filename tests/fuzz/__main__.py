"""A long campaign: `make fuzz`, or python tests/fuzz [--seed N] [--models N] [--calls N] [--seconds S]."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.calls import BACKENDS
from fuzz.campaign import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1_000_000, help="the first seed")
    parser.add_argument("--models", type=int, default=20_000, help="mutated models")
    parser.add_argument("--calls", type=int, default=20_000, help="hostile calls of ops")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="the most that each of the two may take")
    given = parser.parse_args()
    failed = False
    for kind, count in (("models", given.models), ("calls", given.calls // len(BACKENDS))):
        started = time.monotonic()
        done = run(kind, given.seed, count, min(given.seconds, 1e9))
        print(f"{kind} from seed {given.seed}, in {time.monotonic() - started:.0f} s: {done.told()}", flush=True)
        failed |= bool(done.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
