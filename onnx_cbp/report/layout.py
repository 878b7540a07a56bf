"""Places the nodes of a small graph for a drawing: in ranks from top to bottom, with few crossings.

The steps are those of Sugiyama, Tagawa and Toda (Methods for Visual Understanding of Hierarchical System Structures,
1981): ranks by the longest path; dummy nodes on edges that cross a rank; an order by the means of neighbours; and
places as near to the neighbours as this order allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

GAP, RANK_GAP, MARGIN = 24.0, 34.0, 12.0
_DUMMY = 10.0
_SWEEPS = 8

Point = tuple[float, float]


@dataclass(frozen=True)
class Placement:
    """A drawing.

    Attributes:
        places: the top left corner of each node, in order.
        routes: the points of each edge, from its first node's bottom to its second node's top.
        width, height: of the whole drawing, with a margin.
    """

    places: list[Point]
    routes: list[list[Point]]
    width: float
    height: float


def place(sizes: Sequence[Point], edges: Sequence[tuple[int, int]]) -> Placement:
    """Place the nodes of a graph without cycles.

    Args:
        sizes: width and height of each node.
        edges: the first and the second node of each edge.
    """
    if not sizes:
        return Placement([], [], 2 * MARGIN, 2 * MARGIN)
    ranks = _ranks(len(sizes), edges)
    widths = [width for width, _ in sizes]
    chains: list[list[int]] = []
    for tail, head in edges:
        chain = [tail]
        for rank in range(ranks[tail] + 1, ranks[head]):
            chain.append(len(widths))
            widths.append(_DUMMY)
            ranks.append(rank)
        chains.append([*chain, head])
    links = [link for chain in chains for link in itertools.pairwise(chain)]
    layers = _ordered(ranks, links)
    centres = _centres(layers, widths, links)
    left = min(centre - width / 2 for centre, width in zip(centres, widths, strict=True)) - MARGIN
    right = max(centre + width / 2 for centre, width in zip(centres, widths, strict=True)) + MARGIN
    tops, heights = [MARGIN], []
    for layer in layers:
        heights.append(max((sizes[node][1] for node in layer if node < len(sizes)), default=0.0))
        tops.append(tops[-1] + heights[-1] + RANK_GAP)
    places = [(centres[n] - widths[n] / 2 - left, tops[ranks[n]]) for n in range(len(sizes))]
    routes = []
    for chain in chains:
        tail, *passed, head = chain
        route = [(centres[tail] - left, places[tail][1] + sizes[tail][1])]
        for dummy in passed:
            top = tops[ranks[dummy]]
            route += [(centres[dummy] - left, top), (centres[dummy] - left, top + heights[ranks[dummy]])]
        routes.append([*route, (centres[head] - left, places[head][1])])
    return Placement(places, routes, right - left, tops[-1] - RANK_GAP + MARGIN)


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The rank of each node by the longest path to it; a node without predecessors is right above its successors."""
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for tail, head in edges:
        before[head].append(tail)
        after[tail].append(head)
    ranks = [0] * count
    waiting = [len(each) for each in before]
    ready = [node for node in range(count) if not waiting[node]]
    for node in ready:  # the list grows
        for head in after[node]:
            ranks[head] = max(ranks[head], ranks[node] + 1)
            waiting[head] -= 1
            if not waiting[head]:
                ready.append(head)
    for node in reversed(ready):
        if not before[node] and after[node]:
            ranks[node] = min(ranks[head] for head in after[node]) - 1
    return ranks


def _ordered(ranks: Sequence[int], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The nodes of each rank from the left to the right."""
    layers: list[list[int]] = [[] for _ in range(max(ranks) + 1)]
    for node, rank in enumerate(ranks):
        layers[rank].append(node)
    up, down = _neighbours(len(ranks), links)
    best, fewest = [list(layer) for layer in layers], _crossings(layers, links)
    for sweep in range(_SWEEPS):
        downward = sweep % 2 == 0
        near = up if downward else down
        for index in range(1, len(layers)) if downward else range(len(layers) - 2, -1, -1):
            at = {node: place for place, node in enumerate(layers[index - 1 if downward else index + 1])}
            now = {node: float(place) for place, node in enumerate(layers[index])}
            mean = {n: sum(at[m] for m in near[n]) / len(near[n]) if near[n] else now[n] for n in layers[index]}
            layers[index].sort(key=lambda n: (mean[n], now[n]))
        crossings = _crossings(layers, links)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    return best


def _neighbours(count: int, links: Sequence[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    """For each node, its neighbours in the rank above and in the rank below."""
    up: list[list[int]] = [[] for _ in range(count)]
    down: list[list[int]] = [[] for _ in range(count)]
    for tail, head in links:
        up[head].append(tail)
        down[tail].append(head)
    return up, down


def _crossings(layers: Sequence[Sequence[int]], links: Sequence[tuple[int, int]]) -> int:
    rank, at = {}, {}
    for index, layer in enumerate(layers):
        for place, node in enumerate(layer):
            rank[node], at[node] = index, place
    number = 0
    for index, (tail, head) in enumerate(links):
        for other, another in links[:index]:
            if rank[tail] == rank[other] and (at[tail] - at[other]) * (at[head] - at[another]) < 0:
                number += 1
    return number


def _centres(layers: Sequence[Sequence[int]], widths: Sequence[float], links: Sequence[tuple[int, int]]) -> list[float]:
    """The centre of each node: near those of its neighbours, and without overlaps."""
    up, down = _neighbours(len(widths), links)
    centres = [0.0] * len(widths)
    for layer in layers:
        _spread(layer, widths, [0.0] * len(layer), centres)
    for sweep in range(_SWEEPS):
        downward = sweep % 2 == 0
        near = up if downward else down
        for layer in layers if downward else reversed(layers):
            wanted = [sum(centres[m] for m in near[n]) / len(near[n]) if near[n] else centres[n] for n in layer]
            _spread(layer, widths, wanted, centres)
    return centres


def _spread(layer: Sequence[int], widths: Sequence[float], wanted: Sequence[float], centres: list[float]) -> None:
    """Give the nodes of a layer the centres nearest to the wanted ones, by least squares, without overlaps.

    If the widths of the nodes before are subtracted, no centre may be below the one before it. This is an isotonic
    regression, by pooling adjacent violators.
    """
    offsets = [0.0]
    for one, other in itertools.pairwise(layer):
        offsets.append(offsets[-1] + (widths[one] + widths[other]) / 2 + GAP)
    blocks: list[tuple[float, int]] = []  # mean and number
    for want, offset in zip(wanted, offsets, strict=True):
        blocks.append((want - offset, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, number), (last, more) = blocks[-2], blocks[-1]
            blocks[-2:] = [((mean * number + last * more) / (number + more), number + more)]
    free = [mean for mean, number in blocks for _ in range(number)]
    for node, value, offset in zip(layer, free, offsets, strict=True):
        centres[node] = value + offset
