"""The engines that replicas talk through, as parameters of tests."""

from __future__ import annotations

from typing import Any

import pytest

THREADS = pytest.param("threads")
MPI = pytest.param("mpi", marks=pytest.mark.mpi)
TORCH = pytest.param("torch", marks=pytest.mark.torch)
ENGINES = [THREADS, MPI, TORCH]


def thoroughly(parameter: Any) -> Any:
    """The same parameter, for `make test-thorough` alone: processes take seconds to start."""
    return pytest.param(*parameter.values, marks=[*parameter.marks, pytest.mark.thorough])


#: For what our own code does alike with every engine: one whose replicas are processes shows it.
ONE_OF_PROCESSES = [THREADS, MPI, thoroughly(TORCH)]
#: For what threads show as well.
THREADS_SHOW = [THREADS, thoroughly(MPI), thoroughly(TORCH)]
