"""One process of a campaign: it tries one seed after the other and says what it is at, so that a crash is seen.

    python child.py models|calls FIRST COUNT SECONDS

Each line that it writes is JSON: {"at": seed, "stage": ...} before a stage, {"done": seed, ...} behind the last.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from pathlib import Path

_MEMORY = 12 << 30


def main() -> None:
    kind, first, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    skipped = set(sys.argv[5:])
    sys.path.insert(0, str(Path(__file__).parents[1]))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not for who started this process
    if kind == "models":
        from fuzz.models import attempt
    else:
        from fuzz.calls import attempt
    end = time.monotonic() + seconds
    for seed in range(first, first + count):
        if time.monotonic() > end:
            break

        def stage(name: str, seed: int = seed) -> None:
            print(json.dumps({"at": seed, "stage": name}), file=told, flush=True)

        print(json.dumps({"done": seed, **attempt(seed, stage, skipped)}), file=told, flush=True)
        skipped = set()
    print(json.dumps({"end": True}), file=told, flush=True)


if __name__ == "__main__":
    main()
