"""One replica: runs collectives, checks that all replicas run the same one, and reports faults."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_cbp.distributed.communicator import CommunicationError, Communicator
from onnx_cbp.distributed.groups import Partition, partition
from onnx_cbp.errors import OnnxCbpError

#: How many elements come before the payload of a message (ONNX_CBP_MESSAGE_HEADER in c_api.h).
HEADER = 8
#: How many numbers a header has; their squares follow.
_PIECES = HEADER // 2
#: Integers up to this are exact in float32, and so are their sums.
_EXACT = 2**24
#: How many bytes a replica's description of a collective may have.
_DESCRIPTION = 512
_DIGEST = 32


@dataclass(frozen=True)
class Collective:
    """A collective of a layer, as replicas compare it.

    Attributes:
        name: the op.
        layer: the layer whose message it is.
        group: the group of replicas that exchange it.
        dtype: the type of the message, float32 or float64.
        elements: the number of elements of the payload.
    """

    name: str
    layer: str
    group: str
    dtype: np.dtype
    elements: int

    def __str__(self) -> str:
        of_layer = f" of layer '{self.layer}'" if self.layer else ""
        return f"{self.name}{of_layer} (group '{self.group}', {self.elements} {self.dtype.name} elements)"


@dataclass
class Route:
    """A collective that all replicas agree on, and how its messages are sent.

    Attributes:
        collective: the collective.
        communicator: that of its group.
        members: the group, by rank in the world.
        header: the beginning of its messages.
        reduced: the header's sum over the replicas.
        views: arrays over the memory of this replica's messages and over their headers, by address; the memory's owner
            keeps it alive.
        gathered_views: arrays [replicas, n] over the memory of gathered messages, by address.
    """

    collective: Collective
    communicator: Communicator
    members: tuple[int, ...]
    header: np.ndarray
    reduced: list[float]
    views: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    gathered_views: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of replicas."""
        return self.communicator.size


class Replica:
    """A replica of a program. It is thread-safe, but only one thread at a time can communicate.

    Attributes:
        world: the communicator of all replicas.
        timeout: how many seconds a collective may take.
        without_samples: whether this replica's messages do not count: all zeros, with a count of 0.
    """

    def __init__(self, world: Communicator, timeout: float, groups: Mapping[str, Partition]) -> None:
        self.world = world
        self.timeout = timeout
        self.without_samples = False
        #: Routes of nodes, by the number that the native library gives each node.
        self.by_id: dict[int, Route] = {}
        self._named = groups
        self._partitions: dict[str, Partition] = {}
        # One communicator for each kind of collective. If replicas run different kinds, both wait in vain, but neither
        # takes the other's message for its own.
        self._communicators: dict[tuple[Partition, str], Communicator] = {}
        self._routes: dict[Collective, Route] = {}
        self._history = hashlib.sha256()
        self._lock = threading.Lock()
        self._fault: str | None = None

    def replicas(self, group: str) -> int:
        """The number of replicas in this replica's part of a group.

        Raises:
            OnnxCbpError: the name means nothing.
        """
        return len(self._members(group))

    def route(self, collective: Collective) -> Route:
        """The route of a collective; the first time, all replicas of the world compare their descriptions.

        Raises:
            CommunicationError: they differ, or not all came; one line that says what differs.
            OnnxCbpError: the group's name means nothing.
        """
        route = self._routes.get(collective)
        if route is not None:
            return route
        self._partition(collective.group)  # an unknown group only concerns this replica
        self._enter(collective)
        try:
            return self._open(collective)
        except BaseException as error:  # even KeyboardInterrupt: otherwise the others would wait
            raise self._failed(collective, error) from error
        finally:
            self._lock.release()

    def all_gather(self, route: Route, message: np.ndarray, gathered: np.ndarray) -> None:
        """Gather messages [HEADER + elements] into [replicas, HEADER + elements]; the header is written here.

        Raises:
            CommunicationError: one line.
        """
        if self.without_samples:
            message[HEADER:] = 0
        if route.size == 1:
            gathered[0] = message
            return
        self._enter(route.collective)
        try:
            message[:HEADER] = route.header
            route.communicator.all_gather(message, gathered)
            if gathered[:, :HEADER].tobytes() != route.header.tobytes() * route.size:
                self._say_what_differs(route)
        except BaseException as error:
            raise self._failed(route.collective, error) from error
        finally:
            self._lock.release()

    def all_reduce(self, route: Route, message: np.ndarray, header: np.ndarray) -> None:
        """Sum messages [HEADER + elements] in place; `header`, a view of their first elements, is written here.

        Raises:
            CommunicationError: one line.
        """
        if self.without_samples:
            message[HEADER:] = 0
        if route.size == 1:
            return
        self._enter(route.collective)
        try:
            header[:] = route.header
            route.communicator.all_reduce(message)
            if header.tolist() != route.reduced:
                self._say_what_differs(route)
        except BaseException as error:
            raise self._failed(route.collective, error) from error
        finally:
            self._lock.release()

    def close(self) -> None:
        """Give the communicators back."""
        failed = self._fault is not None
        for communicator in [*self._communicators.values(), self.world]:
            communicator.close(failed)

    def _enter(self, collective: Collective) -> None:
        """Take the lock: one thread at a time. After one failure, every further call fails."""
        if not self._lock.acquire(False) and not self._lock.acquire(timeout=self.timeout):
            raise CommunicationError(f"{self._at(collective)}: another thread has been communicating all the time")
        if self._fault is not None:
            self._lock.release()
            raise CommunicationError(
                f"{self._at(collective)}: an earlier collective failed ({self._fault}); call finalize() and start again"
            )

    def _failed(self, collective: Collective, error: BaseException) -> CommunicationError:
        reason = " ".join(str(error).split()) or type(error).__name__
        self._fault = f"{self._at(collective)}: {reason}"
        return CommunicationError(self._fault)

    def _at(self, collective: Collective) -> str:
        return f"rank {self.world.rank} of {self.world.size}: {collective}"

    def _partition(self, group: str) -> Partition:
        if group not in self._partitions:
            self._partitions[group] = partition(group, self.world.size, self._named)
        return self._partitions[group]

    def _members(self, group: str) -> tuple[int, ...]:
        return next(part for part in self._partition(group) if self.world.rank in part)

    def _open(self, collective: Collective) -> Route:
        parts = self._partition(collective.group)
        description = f"{collective} in {[list(part) for part in parts]}"
        self._history.update(description.encode())
        everybody = range(self.world.size)
        self._compare(self.world, everybody, self._history.digest(), str(collective))
        kind = "gather" if "Gather" in collective.name else "reduce"
        if (parts, kind) not in self._communicators:
            self._communicators[parts, kind] = self.world.split(parts)
        communicator = self._communicators[parts, kind]
        header = _header(description, communicator.size).astype(collective.dtype)
        reduced = (header * communicator.size).tolist()
        self._routes[collective] = Route(collective, communicator, self._members(collective.group), header, reduced)
        return self._routes[collective]

    def _say_what_differs(self, route: Route) -> None:
        """All replicas of the group see that their headers differ, so all of them come here."""
        text = str(route.collective)
        self._compare(route.communicator, route.members, hashlib.sha256(text.encode()).digest(), text)
        raise CommunicationError("the message is not that of one collective: a communicator mixed them up")

    def _compare(self, communicator: Communicator, ranks: Sequence[int], digest: bytes, text: str) -> None:
        """Exchange digests and texts; raise where the digests differ."""
        mine = np.zeros(_DESCRIPTION, np.uint8)
        payload = (digest + text.encode())[:_DESCRIPTION]
        mine[: len(payload)] = np.frombuffer(payload, np.uint8)
        every = np.empty((communicator.size, _DESCRIPTION), np.uint8)
        communicator.all_gather(mine.view(np.float64), every.view(np.float64))
        if (every[:, :_DIGEST] == mine[:_DIGEST]).all():
            return
        texts = [row[_DIGEST:].tobytes().rstrip(b"\0").decode(errors="replace") for row in every]
        others = [f"rank {rank} runs {other}" for rank, other in zip(ranks, texts, strict=True) if other != text]
        what = "; ".join(others[:3]) or "they ran others before, or their groups differ"
        raise CommunicationError(f"the replicas run different collectives: {what}")


def _header(description: str, replicas: int) -> np.ndarray:
    """Numbers that represent a collective, followed by their squares.

    The sums of both over the replicas only match if all numbers are equal; every sum is exact, even in float32.
    """
    limit = math.isqrt(_EXACT // replicas)
    digest = hashlib.sha256(description.encode()).digest()
    pieces = [int.from_bytes(digest[4 * i : 4 * i + 4], "little") % limit + 1 for i in range(_PIECES)]
    return np.array(pieces + [piece * piece for piece in pieces], np.float64)


def describe(name: str, layer: str, group: str, dtype: np.dtype, elements: int) -> Collective:
    """A collective, after a check of its names.

    Raises:
        OnnxCbpError: the text is longer than what replicas exchange.
    """
    collective = Collective(name, layer, group, dtype, elements)
    if len(str(collective).encode()) > _DESCRIPTION - _DIGEST:
        raise OnnxCbpError(f"the names of layer and group are too long ({layer[:40]}...): shorten them")
    return collective
