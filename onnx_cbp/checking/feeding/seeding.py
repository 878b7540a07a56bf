"""Gives the random ops of both models the same random numbers.

A random node without a seed of its own gets one from ONNX Runtime by its place in the graph, and a rewrite moves
places. (Dropout does not: its numbers follow from the session's seed alone.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import onnx

from onnx_cbp.checking.graphs import is_standard, nodes
from onnx_cbp.checking.models import Model
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.values.constants import RANDOM

#: Seeds are floats, which hold whole numbers up to here.
_SEEDS = 1 << 24


def seeded(model: Model, seed: int) -> Model:
    """The model with a seed in every random node that has none, made of the name of the value it draws."""
    if not any(_unseeded(model.graph)):
        return model
    copy = model.copy()
    for node in _unseeded(copy):
        node.attribute.append(
            onnx.helper.make_attribute("seed", float(zlib.crc32(f"{seed} {_key(node)}".encode()) % _SEEDS))
        )
    return Model(model.what, copy, copy)


def refuse_other_random_nodes(first: Model, second: Model) -> None:
    """Two models can be compared only where each random value of one is drawn in the other.

    Raises:
        OnnxCbpError: one line that names a random node which only one of them has.
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
