"""Models that were made up and mutated."""

from __future__ import annotations

from fuzz.short import nothing_crashes_hangs_or_raises_what_is_not_documented


def test_models():
    nothing_crashes_hangs_or_raises_what_is_not_documented("models")
