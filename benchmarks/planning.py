"""The tables of docs/internals/planning.md: what replicas cost in a training step of ResNet-50, by an alpha-beta model.

    python benchmarks/planning.py                           # prints them
    python benchmarks/planning.py --page docs/internals/planning.md   # writes them into the page, between its marks

Nothing is measured here, and only Python is needed. `interconnects.py` has the prices, `alpha_beta.py` the algorithms,
`resnet50.py` the messages.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import alpha_beta
from alpha_beta import Algorithm, Interconnect
from interconnects import INTERCONNECTS, LARGEST_MACHINE, SHARED_MEMORY
from resnet50 import DOUBLE, FLOAT, HEADER, backward_bytes, batch_norms, bucket_bytes, forward_bytes

WORLDS = (8, 64, 512, 4096)
GROUPS = (8, 32, 64)
#: Bytes of a bucket of gradients, without its header: PyTorch's default.
BUCKET = 25 * 2**20
#: Images a replica takes in a step.
BATCH = 32
#: Images a second that a replica trains by itself: a CPU of some tens of cores; an accelerator.
SPEEDS = (100, 1000)
#: The part of a step's computing that buckets can hide behind.
BACKWARD = 2 / 3
#: Seconds for each gathered byte in AllGather and ChannelStatsMerge, where what is gathered fits into the last cache
#: and where it does not (`planning_merge.py`, one thread).
IN_CACHE, FROM_MEMORY = 0.1e-9, 0.27e-9
CACHE = 32e6

#: Rows of cells, the header first.
Table = list[list[str]]


# Times.


def forward(network: Interconnect, replicas: int, gather: Callable[[float, int], Algorithm]) -> float:
    """All AllGathers and merges of a step."""
    sizes = [forward_bytes(c) for c in batch_norms()]
    return sum(network.seconds(gather(n, replicas)) + unpacking(n * replicas) for n in sizes)


def unpacking(gathered: float) -> float:
    """What the ops do with the gathered bytes of a layer."""
    return gathered * (IN_CACHE if gathered <= CACHE else FROM_MEMORY)


def backward(network: Interconnect, replicas: int, reduce: Callable[[float, int, int], Algorithm]) -> float:
    """All AllReduces of a step."""
    return sum(network.seconds(reduce(n, replicas, DOUBLE)) for n in map(backward_bytes, batch_norms()))


def normalising(network: Interconnect, replicas: int) -> float:
    """All collectives of batch norms in a step, as MPICH makes them."""
    return forward(network, replicas, alpha_beta.mpich_gather) + backward(network, replicas, alpha_beta.mpich_reduce)


def buckets(network: Interconnect, replicas: int) -> list[float]:
    """Each bucket, as MPICH makes it."""
    return [network.seconds(alpha_beta.mpich_reduce(n, replicas, FLOAT)) for n in bucket_bytes(BUCKET)]


def exposed(times: list[float], computing: float) -> float:
    """What is left to wait for where buckets hide behind the backward pass: the last begins when that is over."""
    return max(sum(times) - BACKWARD * computing, times[-1])


def best_gather(network: Interconnect) -> Callable[[float, int], Algorithm]:
    """The cheaper of the algorithms."""
    made = (alpha_beta.gather_ring, alpha_beta.gather_doubling)
    return lambda n, replicas: min((a(n, replicas) for a in made), key=network.seconds)


def best_reduce(network: Interconnect) -> Callable[[float, int, int], Algorithm]:
    """The cheapest of the algorithms."""
    made = (alpha_beta.reduce_doubling, alpha_beta.reduce_halving, alpha_beta.reduce_ring, alpha_beta.reduce_tree)
    return lambda n, replicas, _element: min((a(n, replicas) for a in made), key=network.seconds)


# Other ways to the statistics of all replicas; each the time of the 53 layers forward.


def in_two_levels(network: Interconnect, replicas: int) -> float:
    """AllGather and merge in groups, then once more across them: groups of about the root of the replicas."""
    inner = 2 ** math.ceil(math.log2(replicas) / 2)
    return sum(forward(network, size, alpha_beta.mpich_gather) for size in (inner, replicas // inner))


def by_two_sums(network: Interconnect, replicas: int) -> float:
    """AllReduce of count * mean and count, then of the squares around the mean of all."""
    lengths = [(HEADER + elements) * DOUBLE for c in batch_norms() for elements in (c + 1, c)]
    return sum(network.seconds(alpha_beta.mpich_reduce(n, replicas, DOUBLE)) for n in lengths)


def by_one_sum(network: Interconnect, replicas: int) -> float:
    """AllReduce of count, sums and sums of squares."""
    return sum(network.seconds(alpha_beta.mpich_reduce(forward_bytes(c), replicas, DOUBLE)) for c in batch_norms())


def by_own_operation(network: Interconnect, replicas: int) -> float:
    """AllReduce whose operation is the merge itself: MPICH takes recursive doubling for those that users define."""
    return sum(network.seconds(alpha_beta.reduce_doubling(forward_bytes(c), replicas)) for c in batch_norms())


# Tables.


def tables() -> dict[str, Table]:
    """All of them, by the names of their marks."""
    return {
        "messages": messages(),
        "prices": prices(),
        "gathered": gathered(),
        "batch norms": by_network(lambda network, replicas: _both(network, replicas, best=False)),
        "batch norms at best": by_network(lambda network, replicas: _both(network, replicas, best=True)),
        "buckets": by_network(
            lambda network, replicas: f"{_ms(sum(buckets(network, replicas)))} / {_ms(_ring(network, replicas))}",
            WORLDS,
        ),
        **{f"step at {speed} images/s": step(BATCH / speed, overlapped=False) for speed in SPEEDS},
        f"step at {SPEEDS[-1]} images/s, buckets overlapped": step(BATCH / SPEEDS[-1], overlapped=True),
        "other ways": other_ways(),
    }


def messages() -> Table:
    """By the number of channels."""
    counted = sorted(Counter(batch_norms()).items())
    rows = [[str(c), str(count), f"{forward_bytes(c):,}", f"{backward_bytes(c):,}"] for c, count in counted]
    norms = batch_norms()
    totals = [sum(map(size, norms)) for size in (forward_bytes, backward_bytes)]
    total = [f"all: {sum(norms):,}", str(len(norms)), *(f"{total:,}" for total in totals)]
    return [["channels", "batch norms", "forward, bytes", "backward, bytes"], *rows, total]


def prices() -> Table:
    """The prices of the interconnects."""
    header = ["network", "alpha, us", "GB/s", "gamma, ns a byte", "long above, KiB", "handshake, us"]
    rows = [(n.alpha * 1e6, 1e-9 / n.beta, n.gamma * 1e9, n.eager / 1024, n.handshake * 1e6) for n in INTERCONNECTS]
    return [header, *([n.name, *(f"{x:.3g}" for x in row)] for n, row in zip(INTERCONNECTS, rows, strict=True))]


def gathered() -> Table:
    """What AllGather makes of a world."""
    norms = batch_norms()
    rows = []
    for replicas in sorted({*WORLDS, *GROUPS}):
        sizes = [forward_bytes(c) for c in norms]
        rings = [n for n in sizes if alpha_beta.mpich_gather(n, replicas) == alpha_beta.gather_ring(n, replicas)]
        each = [replicas * n for n in sizes]
        rows.append(
            [str(replicas), _mb(max(each)), _mb(sum(each)), f"{_ms(sum(map(unpacking, each)))} ms", str(len(rings))]
        )
    return [["replicas", "largest layer", "all 53", "unpacked and merged in", "layers by ring"], *rows]


def by_network(cell: Callable[[Interconnect, int], str], sizes: Iterable[int] = (8, 32, 64, 512, 4096)) -> Table:
    """A row for each network, a column for each number of replicas."""
    rows = [
        [network.name, *(cell(network, size) if _possible(network, size) else "-" for size in sizes)]
        for network in INTERCONNECTS
    ]
    return [["ms", *map(str, sizes)], *rows]


def step(computing: float, overlapped: bool) -> Table:
    """The part of a step that goes to batch norms' collectives, and the step's time, by network and group."""
    rows = []
    for network in INTERCONNECTS[1:]:
        for size in (None, *GROUPS):
            cells = []
            for replicas in WORLDS:
                if size is not None and size > replicas:
                    cells.append("-")
                    continue
                norms = normalising(network, size or replicas)
                times = buckets(network, replicas)
                whole = computing + norms + (exposed(times, computing) if overlapped else sum(times))
                cells.append(f"{norms / whole:.1%} of {_ms(whole)}")
            rows.append([network.name, "world" if size is None else f"size:{size}", *cells])
    return [["network", "group", *map(str, WORLDS)], *rows]


def other_ways() -> Table:
    """Forward only."""
    ways: dict[str, Callable[[Interconnect, int], float]] = {
        "AllGather (what the ops do)": lambda n, replicas: forward(n, replicas, alpha_beta.mpich_gather),
        "AllGather, recursive doubling": lambda n, replicas: forward(n, replicas, alpha_beta.gather_doubling),
        "AllGather in two levels": in_two_levels,
        "two AllReduces": by_two_sums,
        "one AllReduce of sums": by_one_sum,
        "one AllReduce that merges": by_own_operation,
    }
    rows = [
        [network.name, way, *(_ms(seconds(network, replicas)) for replicas in WORLDS)]
        for network in (INTERCONNECTS[2], INTERCONNECTS[4])
        for way, seconds in ways.items()
    ]
    return [["network", "ms forward", *map(str, WORLDS)], *rows]


def _both(network: Interconnect, replicas: int, best: bool) -> str:
    gather = best_gather(network) if best else alpha_beta.mpich_gather
    reduce = best_reduce(network) if best else alpha_beta.mpich_reduce
    return f"{_ms(forward(network, replicas, gather))} + {_ms(backward(network, replicas, reduce))}"


def _ring(network: Interconnect, replicas: int) -> float:
    return sum(network.seconds(alpha_beta.reduce_ring(n, replicas)) for n in bucket_bytes(BUCKET))


def _possible(network: Interconnect, replicas: int) -> bool:
    return network is not SHARED_MEMORY or replicas <= LARGEST_MACHINE


def _ms(seconds: float) -> str:
    """Three digits."""
    return f"{seconds * 1e3:,.{max(0, 2 - math.floor(math.log10(seconds * 1e3)))}f}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.3g} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


# The page.


def markdown(table: Table) -> str:
    """A table as the page has it."""
    header, *rows = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([header, "|---" * len(table[0]) + "|", *rows])


def fill(page: str) -> str:
    """The page, with each table behind the mark of its name: a comment, `<!-- planning: NAME -->`.

    Raises:
        KeyError: a mark without a table.
        ValueError: a table without a mark.
    """
    made = tables()
    missing = sorted(made.keys() - set(re.findall(r"<!-- planning: (.*) -->", page)))
    if missing:
        raise ValueError(f"the page has no mark for {', '.join(missing)}")
    return re.sub(r"(<!-- planning: (.*) -->\n)(?:\|.*\n)*", lambda mark: f"{mark[1]}{markdown(made[mark[2]])}\n", page)


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="a Markdown file with marks")
    arguments = parser.parse_args()
    if arguments.page:
        arguments.page.write_text(fill(arguments.page.read_text()))
        return
    for name, table in tables().items():
        print(f"{name}\n\n{markdown(table)}\n")


if __name__ == "__main__":
    main()
