"""Calls with what no program should give. Named to be the first here, and not beside the models: they run at once."""

from __future__ import annotations

from fuzz.short import nothing_crashes_hangs_or_raises_what_is_not_documented


def test_calls():
    nothing_crashes_hangs_or_raises_what_is_not_documented("calls")
