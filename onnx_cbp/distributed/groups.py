"""Groups of replicas: who exchanges statistics with whom.

A group divides the world into parts: each replica is in one part, and a collective runs within a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index

from onnx_cbp.errors import OnnxCbpError

Partition = tuple[tuple[int, ...], ...]

WORLD = "world"
_SIZE = "size:"
_EXAMPLE = '{"machines": [[0, 1], [2, 3]]}'


def partition(name: str, world_size: int, named: Mapping[str, Partition]) -> Partition:
    """The parts that the name of a group means.

    Args:
        name: "world"; "size:K", for K consecutive ranks; or a name that was given to `initialize`.
        world_size: the number of replicas.
        named: the groups that were given to `initialize`.

    Raises:
        OnnxCbpError: the name means nothing, or the size does not divide the world.
    """
    if name == WORLD:
        return (tuple(range(world_size)),)
    if name in named:
        return named[name]
    if not name.startswith(_SIZE):
        known = ", ".join(map(repr, [WORLD, "size:K", *named]))
        raise OnnxCbpError(f"group '{name}' is not known; use one of {known}, or name it in initialize(groups=...)")
    text = name.removeprefix(_SIZE)
    size = int(text) if text.isdecimal() else 0
    if size < 1 or world_size % size:
        raise OnnxCbpError(f"group '{name}': the size must be a number that divides the {world_size} replicas")
    return tuple(tuple(range(first, first + size)) for first in range(0, world_size, size))


def check_named(groups: Mapping[str, Sequence[Sequence[int]]], world_size: int) -> dict[str, Partition]:
    """Check the groups that a user defined.

    Raises:
        OnnxCbpError: a name already means something else, or the parts do not hold every rank once.
    """
    checked = {}
    if not isinstance(groups, Mapping) or not all(isinstance(name, str) for name in groups):
        raise OnnxCbpError(f"groups is {groups!r}; it must be lists of ranks by name, such as {_EXAMPLE}")
    for name, parts in groups.items():
        if name == WORLD or name.startswith(_SIZE) or not name:
            raise OnnxCbpError(f"groups: the name '{name}' is taken; use another")
        try:
            made = tuple(tuple(sorted(map(index, part))) for part in parts)
        except TypeError as error:
            raise OnnxCbpError(f"groups: '{name}' is {parts!r}; it must be lists of ranks, as in {_EXAMPLE}") from error
        ranks = sorted(rank for part in made for rank in part)
        if ranks != list(range(world_size)):
            raise OnnxCbpError(
                f"groups: '{name}' is {[list(part) for part in made]}; its parts must hold each of the ranks 0 to "
                f"{world_size - 1} once"
            )
        checked[name] = made
    return checked
