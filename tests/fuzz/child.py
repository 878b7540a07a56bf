"""What the processes of a campaign are: one that has all modules loaded, and copies of it that try seeds.

    python child.py models|calls

Each line that it reads is JSON, [FIRST, COUNT, SECONDS, [stage to leave out at the first seed, ...]], and begins a
process that tries one seed after the other, so that one that crashes is seen. Each line that these write is JSON:
{"pid": ...} first, {"at": seed, "stage": ...} before a stage, {"done": seed, ...} behind the last, and {"end": how the
process ended}.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TextIO

_MEMORY = 12 << 30

Attempt = Callable[[int, Callable[[str], None], Collection[str]], dict[str, Any]]


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not for who started this process
    if sys.argv[1] == "models":
        from fuzz.models import attempt
    else:
        from fuzz.calls import attempt
    for line in sys.stdin:
        copy = os.fork()  # loading the modules takes longer than trying ten seeds
        if copy == 0:
            status = 1
            try:
                _try(attempt, told, *json.loads(line))
                status = 0
            finally:
                os._exit(status)  # an error of the fuzzer itself, too: threads of ONNX Runtime would wait for ever
        _, status = os.waitpid(copy, 0)
        print(json.dumps({"end": os.waitstatus_to_exitcode(status)}), file=told, flush=True)


def _try(attempt: Attempt, told: TextIO, first: int, count: int, seconds: float, skipped: list[str]) -> None:
    print(json.dumps({"pid": os.getpid()}), file=told, flush=True)
    end = time.monotonic() + seconds
    for seed in range(first, first + count):
        if time.monotonic() > end:
            break

        def stage(name: str, seed: int = seed) -> None:
            print(json.dumps({"at": seed, "stage": name}), file=told, flush=True)

        print(json.dumps({"done": seed, **attempt(seed, stage, skipped)}), file=told, flush=True)
        skipped = []


if __name__ == "__main__":
    main()
