"""Costs of collectives in the alpha-beta model: a step of an algorithm takes alpha, and beta for each byte.

Hockney: The communication challenge for MPP, Parallel Computing 20 (1994): the model. Thakur, Rabenseifner, Gropp:
Optimization of Collective Communication Operations in MPICH, IJHPCA 19 (2005), and Chan, Heimlich, Purkayastha,
van de Geijn: Collective communication: theory, practice, and experience, CCPE 19 (2007): the algorithms' costs.

An algorithm is a list of steps, which a network prices. Two prices are added to the model's: summing, as Thakur et al.
do, and a handshake before long messages, which every MPI library makes and the measurement shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """Equal steps behind one another, as one replica on the longest way sees them.

    Attributes:
        number: of the steps.
        moved: bytes sent in one of them; as many are received at the same time.
        summed: bytes of the received that are then added to one's own.
    """

    number: int
    moved: float
    summed: float = 0.0


#: What a collective takes, from its first step to its last.
Algorithm = list[Steps]


@dataclass(frozen=True)
class Interconnect:
    """A network between machines, with its prices in seconds.

    Attributes:
        name: what it is.
        alpha: of a step.
        beta: of a byte moved.
        gamma: of a byte summed.
        eager: up to this many bytes, a message is sent at once.
        handshake: of asking first, for a longer message.
        call: of calling a collective: what the op does around the engine.
    """

    name: str
    alpha: float
    beta: float
    gamma: float = 0.0
    eager: float = math.inf
    handshake: float = 0.0
    call: float = 0.0

    def seconds(self, algorithm: Algorithm) -> float:
        """The time of one collective."""
        return self.call + sum(self._step(steps) * steps.number for steps in algorithm)

    def _step(self, steps: Steps) -> float:
        first = self.alpha + self.handshake * (steps.moved > self.eager)
        return first + steps.moved * self.beta + steps.summed * self.gamma


# AllGather: every replica brings n bytes and takes those of all.


def gather_ring(n: float, replicas: int) -> Algorithm:
    """Each step hands on the message that came in the one before: R - 1 steps, (R - 1) n bytes."""
    return [Steps(replicas - 1, n)]


def gather_doubling(n: float, replicas: int) -> Algorithm:
    """Recursive doubling, for powers of two; Bruck's for any number: log2 R steps, (R - 1) n bytes."""
    steps = [Steps(1, n * 2**k) for k in range(floor_log2(replicas))]
    rest = replicas - 2 ** len(steps)
    return [*steps, Steps(1, n * rest)] if rest else steps


# AllReduce: every replica brings n bytes and takes their sum.


def reduce_doubling(n: float, replicas: int) -> Algorithm:
    """Recursive doubling, whole vectors: log2 R steps, n log2 R bytes."""
    return _folded(n, replicas, [Steps(floor_log2(replicas), n, n)])


def reduce_halving(n: float, replicas: int) -> Algorithm:
    """Rabenseifner's: recursive halving scatters the sum, recursive doubling gathers it: 2 log2 R steps, 2 n bytes."""
    parts = [n / 2**k for k in range(1, floor_log2(replicas) + 1)]
    return _folded(n, replicas, [Steps(1, part, part) for part in parts] + [Steps(1, part) for part in parts[::-1]])


def reduce_ring(n: float, replicas: int) -> Algorithm:
    """A ring scatters the sum and gathers it: 2 (R - 1) steps, 2 n bytes."""
    part = n / replicas
    return [Steps(replicas - 1, part, part), Steps(replicas - 1, part)]


def reduce_tree(n: float, replicas: int) -> Algorithm:
    """Up a binomial tree and down again: 2 log2 R steps, 2 n log2 R bytes."""
    steps = math.ceil(math.log2(replicas))
    return [Steps(steps, n, n), Steps(steps, n)]


def floor_log2(replicas: int) -> int:
    """Exact for integers."""
    return replicas.bit_length() - 1


def _folded(n: float, replicas: int, among_a_power_of_two: Algorithm) -> Algorithm:
    """The replicas above a power of two give their vectors to others first, and get the sum from them last."""
    if 2 ** floor_log2(replicas) == replicas:
        return among_a_power_of_two
    return [Steps(1, n, n), *among_a_power_of_two, Steps(1, n)]


# Which of them is taken.

#: Thresholds of MPICH's table of collectives that do not block (src/mpi/coll/coll_selection.json).
_LONG_GATHER, _SHORT_GATHER, _SHORT_REDUCE = 524288, 81920, 2048


def mpich_gather(n: float, replicas: int) -> Algorithm:
    """What MPICH takes. The limits are for what all replicas send together, so a large world is a ring's."""
    power_of_two = 2 ** floor_log2(replicas) == replicas
    short = n * replicas < (_LONG_GATHER if power_of_two else _SHORT_GATHER)
    return gather_doubling(n, replicas) if short else gather_ring(n, replicas)


def mpich_reduce(n: float, replicas: int, element: int) -> Algorithm:
    """What MPICH takes; a vector with fewer elements than replicas cannot be scattered."""
    short = n <= _SHORT_REDUCE or n / element < 2 ** floor_log2(replicas)
    return reduce_doubling(n, replicas) if short else reduce_halving(n, replicas)
