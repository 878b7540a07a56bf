"""Short campaigns, as long as the time that they are given; `make fuzz` is the long one (docs/reliability.md)."""

from __future__ import annotations

import os

from fuzz.campaign import run

#: The first seed. The environment variable gives another, say that of a fault that a campaign has told.
_FIRST = int(os.environ.get("ONNX_CBP_FUZZ_SEED", "0"))
_SECONDS = float(os.environ.get("ONNX_CBP_FUZZ_SECONDS", "20"))


def nothing_crashes_hangs_or_raises_what_is_not_documented(kind: str) -> None:
    """Try what there is time for of a kind: "models" or "calls"."""
    done = run(kind, _FIRST, 1_000_000, _SECONDS)
    print(f"{kind} from seed {_FIRST}: {done.told()}")
    assert not done.faults, done.told()
    assert done.attempts > 10
