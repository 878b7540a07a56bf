"""Replicas that are threads of one program, for tests and notebooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np

from onnx_cbp.distributed.communicator import CommunicationError, Communicator
from onnx_cbp.errors import OnnxCbpError

#: Seconds between two checks whether missing threads still live.
_LOOK = 0.1


class _Round:
    """One collective: the parts of the replicas, and the result."""

    def __init__(self) -> None:
        self.parts: dict[int, np.ndarray] = {}
        self.kind = ""
        self.result: np.ndarray | None = None


class _Meeting:
    """Where the replicas of one communicator meet, each under its rank in the world."""

    def __init__(self, ranks: Sequence[int], timeout: float, parent: _Meeting | None = None) -> None:
        self.ranks = tuple(ranks)
        self.timeout = timeout
        self.root: _Meeting = parent.root if parent else self
        self.condition: threading.Condition = parent.condition if parent else threading.Condition()
        self.children: dict[tuple[int, tuple[int, ...]], _Meeting] = {}
        self.left: set[int] = set()
        # Only in the root meeting, for all of them: the threads by rank, and the fault.
        self.threads: dict[int, threading.Thread] = {}
        self.fault: str | None = None
        self._round = _Round()

    def exchange(
        self, rank: int, kind: str, part: np.ndarray, combine: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Bring a part, wait for all parts, and get what `combine` makes of them ([size, n], by rank)."""
        deadline = time.monotonic() + self.timeout
        with self.condition:
            current = self._round
            self._check(rank, current, kind, part)
            current.kind = kind
            current.parts[rank] = part.copy()
            if len(current.parts) == len(self.ranks):
                current.result = combine(np.stack([current.parts[r] for r in self.ranks]))
                self._round = _Round()
                self.condition.notify_all()
            while current.result is None:
                if self.root.fault is not None:
                    raise CommunicationError(self.root.fault)
                late = time.monotonic() >= deadline
                reasons = [f"rank {r} {why}" for r in self.ranks if (why := self._absence(r, current, late))]
                if reasons:
                    self.fail(", ".join(reasons))
                else:
                    self.condition.wait(min(deadline - time.monotonic(), _LOOK))
            return current.result

    def fail(self, reason: str) -> None:
        """Wake all that wait, in every group, and let nobody wait again; called with the condition's lock held."""
        self.root.fault = self.root.fault or reason
        self.condition.notify_all()

    def _absence(self, rank: int, current: _Round, late: bool) -> str | None:
        """Why a replica that has not come never will, as far as one can tell."""
        if rank in current.parts:
            return None
        if rank in self.left:
            return "has left (finalize)"
        thread = self.root.threads.get(rank)
        if thread is not None and not thread.is_alive():
            return "died"
        return f"did not come within {self.timeout:g} s" if late else None

    def _check(self, rank: int, current: _Round, kind: str, part: np.ndarray) -> None:
        if self.root.fault is None and current.parts:
            other, theirs = next(iter(current.parts.items()))
            if kind != current.kind or part.shape != theirs.shape or part.dtype != theirs.dtype:
                self.fail(
                    f"rank {other} runs {current.kind} of {theirs.size} {theirs.dtype.name} elements, rank {rank} "
                    f"{kind} of {part.size} {part.dtype.name} elements"
                )
        if self.root.fault is not None:
            raise CommunicationError(self.root.fault)


_joining = threading.Lock()
_meeting: _Meeting | None = None


class ThreadCommunicator(Communicator):
    """A thread that is a replica."""

    def __init__(self, meeting: _Meeting, world_rank: int) -> None:
        self.rank = meeting.ranks.index(world_rank)
        self.size = len(meeting.ranks)
        self._meeting = meeting
        self._world_rank = world_rank
        self._splits = 0

    @classmethod
    def join(cls, *, timeout: float, rank: int, world_size: int) -> ThreadCommunicator:
        """Join the meeting of this program's threads, and wait until all are there.

        Raises:
            OnnxCbpError: the rank is taken or out of range, or other threads have another world size.
            CommunicationError: not all came within the time.
        """
        whole = isinstance(rank, Integral) and isinstance(world_size, Integral)
        if not whole or world_size < 1 or not 0 <= rank < world_size:
            raise OnnxCbpError(
                f"initialize('threads'): rank is {rank!r} and world_size is {world_size!r}; ranks are 0 to "
                "world_size - 1"
            )
        meeting = _meeting_of(rank, world_size, timeout)
        try:
            meeting.exchange(rank, "initialize", np.zeros(0), lambda parts: parts)
        except CommunicationError as error:
            raise CommunicationError(f"rank {rank} of {world_size}: initialize: {error}") from None
        return cls(meeting, rank)

    def all_reduce(self, message: np.ndarray) -> None:
        """Sum in the order of the ranks."""
        message[:] = self._exchange("AllReduce", message, lambda parts: parts.sum(axis=0))

    def all_gather(self, message: np.ndarray, gathered: np.ndarray) -> None:
        """Copy every replica's message."""
        gathered[:] = self._exchange("AllGather", message, lambda parts: parts)

    def split(self, partition: Sequence[Sequence[int]]) -> ThreadCommunicator:
        """Make a meeting for the group."""
        part = next(tuple(self._meeting.ranks[r] for r in ranks) for ranks in partition if self.rank in ranks)
        self._splits += 1  # every replica has split equally often
        with self._meeting.condition:
            made = self._meeting.children.setdefault(
                (self._splits, part), _Meeting(part, self._meeting.timeout, self._meeting)
            )
        return ThreadCommunicator(made, self._world_rank)

    def close(self, failed: bool) -> None:  # noqa: ARG002 leaving never waits
        """Leave; replicas that still wait for this one get an error."""
        with self._meeting.condition:
            self._meeting.left.add(self._world_rank)
            self._meeting.condition.notify_all()

    def abort(self, reason: str, *, ends: bool = True) -> None:  # noqa: ARG002 only a thread ends
        """End everything that the other replicas wait for, here and in every group."""
        with self._meeting.condition:
            self._meeting.fail(f"rank {self._world_rank} failed: {reason}")

    def _exchange(self, kind: str, part: np.ndarray, combine: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return self._meeting.exchange(self._world_rank, kind, part, combine)


def _meeting_of(rank: int, world_size: int, timeout: float) -> _Meeting:
    """The meeting that this program's threads are joining; a new one if the last is over."""
    global _meeting
    with _joining:
        meeting = _meeting
        over = meeting is None or bool(meeting.fault or meeting.left)
        if meeting is None or over or not any(thread.is_alive() for thread in meeting.threads.values()):
            _meeting = meeting = _Meeting(range(world_size), timeout)
        if len(meeting.ranks) != world_size:
            raise OnnxCbpError(
                f"initialize('threads'): world_size is {world_size}, another thread's is {len(meeting.ranks)}"
            )
        if rank in meeting.threads:
            raise OnnxCbpError(f"initialize('threads'): rank {rank} is taken by '{meeting.threads[rank].name}'")
        meeting.threads[rank] = threading.current_thread()
        return meeting
