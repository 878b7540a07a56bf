"""The interface of an engine: four methods. MPI, torch.distributed and threads implement it."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np

from onnx_cbp.errors import OnnxCbpError


class CommunicationError(OnnxCbpError):
    """A collective that failed; one line that names rank, layer and collective."""


class Communicator(abc.ABC):
    """One replica among `size` that communicate with one another.

    Every method is collective: all replicas call it, in the same order. It returns or raises within the engine's time
    limit, and releases Python's interpreter lock while it waits. The thread that runs the session calls it; only one
    thread does so at a time.

    Attributes:
        rank: this replica's number, 0 to size - 1.
        size: the number of replicas.
    """

    rank: int
    size: int

    @abc.abstractmethod
    def all_reduce(self, message: np.ndarray) -> None:
        """Sum a message over the replicas, in place; every replica gets the same bits.

        Args:
            message: float32 or float64 [n], contiguous; of the same type and length on every replica. If this raises
                while a transfer is still under way, keep a reference to the array. Memory that is not NumPy's own stays
                valid after a failure.

        Raises:
            CommunicationError: one line that says what happened; rank and collective are added in front.
        """

    @abc.abstractmethod
    def all_gather(self, message: np.ndarray, gathered: np.ndarray) -> None:
        """Give every replica the messages of all replicas, by rank, bit by bit.

        Args:
            message: float32 or float64 [n], contiguous.
            gathered: [size, n] of the same type, contiguous; filled.

        Raises:
            CommunicationError: as `all_reduce`.
        """

    @abc.abstractmethod
    def split(self, partition: Sequence[Sequence[int]]) -> Communicator:
        """Make a communicator for the group of this replica; its messages never mix with those of other communicators.

        Args:
            partition: the groups, each a list of the ranks of its members in ascending order; every rank is in one of
                them. It is the same on every replica.

        Returns:
            A communicator of the members, in the order of the group: `rank` is this replica's place in it.

        Raises:
            CommunicationError: as `all_reduce`.
        """

    def abort(self, reason: str, *, ends: bool = True) -> None:  # noqa: B027 - an engine may leave it out
        """Tell the other replicas that this one has met an exception and will not come again. It must not hang.

        An engine may leave this out: then the others wait until their time is over.

        Args:
            reason: the exception, in one line.
            ends: whether this process is about to end; otherwise only one of its threads has ended.
        """

    @abc.abstractmethod
    def close(self, failed: bool) -> None:
        """Release everything that this communicator holds; it is not used again. It must not hang.

        Args:
            failed: whether a collective has failed before, so that other replicas may be gone.
        """
