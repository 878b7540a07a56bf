"""How a program under ThreadSanitizer is started."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence

import pytest


def threads_command(command: Sequence[str]) -> list[str]:
    """The command, where need be without addresses at random, of which GCC 12's sanitizer takes too few.

    Skips where it runs in neither way.
    """
    for before in ([], ["setarch", "-R"]):
        if (not before or shutil.which(before[0])) and _starts((*before, command[0])):
            return [*before, *command]
    pytest.skip("ThreadSanitizer does not run here: it takes another memory mapping than this kernel gives")


@functools.cache
def _starts(command: tuple[str, ...]) -> bool:
    """Whether a program comes as far as its own beginning."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return "unexpected memory mapping" not in done.stderr and "failed to set personality" not in done.stderr
