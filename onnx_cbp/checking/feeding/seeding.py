"""Gives the random ops of both models the same random numbers.

ONNX Runtime gives a random node without its own seed one by its place in the graph, and a rewrite changes places.
(Dropout is not affected: its numbers follow only from the session's seed.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import onnx

from onnx_cbp.checking.graphs import is_standard, nodes
from onnx_cbp.checking.models import Model
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.values.constants import RANDOM

#: Seeds are floats, which hold integers exactly up to this.
_SEEDS = 1 << 24


def seeded(model: Model, seed: int) -> Model:
    """The model with a seed in every random node that has none, made from the name of its output."""
    if not any(_unseeded(model.graph)):
        return model
    copy = model.copy()
    for node in _unseeded(copy):
        node.attribute.append(
            onnx.helper.make_attribute("seed", float(zlib.crc32(f"{seed} {_key(node)}".encode()) % _SEEDS))
        )
    return Model(model.what, copy, copy)


def refuse_other_random_nodes(first: Model, second: Model) -> None:
    """Refuse models of which one draws a random value that the other does not: they cannot be compared.

    Raises:
        OnnxCbpError: one line that names a random node of only one of them.
    """
    for here, there in ((first, second), (second, first)):
        drawn = {_key(node) for node in _unseeded(there.graph)}
        for node in _unseeded(here.graph):
            if _key(node) not in drawn:
                raise OnnxCbpError(
                    f"{here.what} draws random numbers '{_key(node)}' ({node.op_type}) and {there.what} none of that "
                    "name, so their results cannot be compared: give the node the same attribute 'seed' in both"
                )


def _unseeded(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for holder in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes(holder):
            if is_standard(node) and node.op_type in RANDOM and all(a.name != "seed" for a in node.attribute):
                yield node


def _key(node: onnx.NodeProto) -> str:
    return node.output[0]
