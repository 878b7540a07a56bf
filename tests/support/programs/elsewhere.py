"""Where a Python of its own is started: `python -c` would take the sources in the current folder for the package."""

from __future__ import annotations

import tempfile

ELSEWHERE = tempfile.gettempdir()
