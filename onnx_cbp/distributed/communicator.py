"""The interface of an engine: four methods. MPI, torch.distributed and threads implement it."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np

from onnx_cbp.errors import OnnxCbpError


class CommunicationError(OnnxCbpError):
    """A collective that did not come about; one line that names rank, layer and collective."""


class Communicator(abc.ABC):
    """One replica among `size` that communicate with one another.

    Every method is collective: all replicas call it, in the same order. It returns, or raises, within the time limit
    that the engine was made with; where it waits, it lets go of Python's interpreter lock. It is called by whichever
    thread runs the session, by one at a time.

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
            message: float32 or float64 [n], contiguous; of the same type and length on every replica. Where this raises
                while a transfer is still under way, keep a reference to the array: memory that is not NumPy's own stays
                valid after a failure.

        Raises:
            CommunicationError: one line that says what happened; rank and collective are put before it.
        """

    @abc.abstractmethod
    def all_gather(self, message: np.ndarray, gathered: np.ndarray) -> None:
        """Give every replica the messages of all, by rank, bit by bit.

        Args:
            message: float32 or float64 [n], contiguous.
            gathered: [size, n] of the same type, contiguous; filled.

        Raises:
            CommunicationError: as `all_reduce`.
        """

    @abc.abstractmethod
    def split(self, partition: Sequence[Sequence[int]]) -> Communicator:
        """Make a communicator of the group of this replica: its messages mix with no other communicator's.

        Args:
            partition: the groups, each the ranks of its members in ascending order; every rank is in one of them. The
                same on every replica.

        Returns:
            A communicator with the members in the order of the group: `rank` is this replica's place in it.

        Raises:
            CommunicationError: as `all_reduce`.
        """

    def abort(self, reason: str, *, ends: bool = True) -> None:  # noqa: B027 - an engine may leave it out
        """Tell the others that this replica has met an exception and will not come again; must not hang.

        Nothing happens where an engine leaves this out: they wait until their time is up.

        Args:
            reason: the exception, in one line.
            ends: whether this process is about to end; otherwise, one of its threads has.
        """

    @abc.abstractmethod
    def close(self, failed: bool) -> None:
        """Release what this communicator holds; it is not used again. Must not hang.

        Args:
            failed: a collective has failed before, so other replicas may be gone.
        """
