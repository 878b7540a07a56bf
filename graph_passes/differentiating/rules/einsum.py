"""The gradient rule of Einsum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_cbp.graph_passes.core.values.equations import Equation, unused
from onnx_cbp.graph_passes.differentiating.attributes import text
from onnx_cbp.graph_passes.differentiating.builder import Builder, Size
from onnx_cbp.graph_passes.differentiating.registry import InputGradient, rule


@dataclass(frozen=True)
class _Operand:
    """An operand with a letter for each of its axes."""

    letters: str
    value: ir.Value

    @property
    def different(self) -> str:
        """Its letters, each of them once."""
        return _once(self.letters)


@rule("Einsum")
def einsum(g: Builder, node: ir.Node, dY: ir.Value) -> list[InputGradient]:
    """Einsum: the gradient of each operand is an Einsum of dY and the other operands, with the operand's own letters.

    Letters that only this operand has were summed over: its gradient is the same along them. An operand with a letter
    twice was read along a diagonal: its gradient is zero beside it. What was broadcast by a size of 1 is summed.
    """
    operands, result = _spelled_out(g, node)
    return [
        _gradient(g, operand, [*operands[:index], *operands[index + 1 :]], result, dY)
        for index, operand in enumerate(operands)
    ]


def _gradient(g: Builder, operand: _Operand, others: Sequence[_Operand], result: str, dY: ir.Value) -> InputGradient:
    if not g.wants(operand.value):
        return None
    letters = operand.different
    present = set(result).union(*(other.letters for other in others))
    kept = "".join(c for c in letters if c in present)
    X = operand.value
    if letters != operand.letters:
        X = g.Einsum(X, equation=f"{operand.letters}->{letters}")
    sizes = _sizes(g, [operand, *others])
    is_plain = all(len(sizes[c]) == 1 and None not in sizes[c] for c in kept)
    shape = [next(iter(sizes[c])) if len(sizes[c]) == 1 else None for c in kept]
    equation = ",".join([result, *(other.letters for other in others)]) + f"->{kept}"
    dX = g.Einsum(dY, *(other.value for other in others), equation=equation, shape=shape)
    missing = [axis for axis, c in enumerate(letters) if c not in present]
    dX = g.Unsqueeze(dX, missing) if missing else dX
    if not is_plain:  # either of X and what it met may have had a size of 1
        dX = g.unbroadcast(g.Expand(dX, g.shape_of(X), shape=[None] * len(letters)), X)
    elif missing:
        dX = g.expand_like(dX, X)
    return dX if letters == operand.letters else _on_diagonal(g, dX, operand)


def _on_diagonal(g: Builder, dX: ir.Value, operand: _Operand) -> ir.Value:
    """The elements of a gradient where the letters of an operand that are the same have the same index."""
    free = iter(unused(operand.letters))
    written, identities = "", []
    for axis, letter in enumerate(operand.letters):
        if letter not in written:
            written += letter
            continue
        other = next(free)  # a tensor of 26 axes would be larger than any memory
        written += other
        identities.append((letter + other, _identity(g, operand.value, axis)))
    equation = ",".join([operand.different, *(letters for letters, _ in identities)]) + f"->{written}"
    return g.Einsum(dX, *(matrix for _, matrix in identities), equation=equation, like=operand.value)


def _identity(g: Builder, X: ir.Value, axis: int) -> ir.Value:
    """The identity matrix of the size of an axis."""
    size = g.shape(X)[axis]
    if isinstance(size, int):
        g.check_size(size, size)
        return g.constant(np.eye(size, dtype=g.dtype(X).numpy()), g.dtype(X))
    count = g.Squeeze(g.sizes_of(X, [axis]), [0])
    places = g.Range(np.array(0, np.int64), count, np.array(1, np.int64))
    return g.one_hot(places, count, g.dtype(X), axis=1)


def _spelled_out(g: Builder, node: ir.Node) -> tuple[list[_Operand], str]:
    """The operands and the letters of the result; the axes of an ellipsis have letters, too."""
    given = text(node, "equation", "")
    values = [g.there(value) for value in node.inputs]
    equation = Equation.of(given, [g.rank(value) for value in values])
    if equation is None:
        raise g.refuse(f"equation '{given}' does not fit operands of ranks {[g.rank(value) for value in values]}")
    return [_Operand(*each) for each in zip(equation.terms, values, strict=True)], equation.result


def _sizes(g: Builder, operands: Iterable[_Operand]) -> dict[str, set[Size]]:
    """The sizes that each letter has."""
    sizes: dict[str, set[Size]] = {}
    for operand in operands:
        for letter, size in zip(operand.letters, g.shape(operand.value), strict=True):
            sizes.setdefault(letter, set()).add(size)
    return sizes


def _once(letters: str) -> str:
    return "".join(dict.fromkeys(letters))
