"""The memory that this machine has."""

from __future__ import annotations

import os


def physical_memory() -> int | None:
    """In bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, and other systems not all of its names
        return None
