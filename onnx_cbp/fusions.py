"""The fusions of `rewrite`: each is a switch that saves memory traffic and only changes rounding."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_cbp.custom_ops import DOMAIN


@dataclass(frozen=True)
class Fusion:
    """One fusion, and how it is recognised in a model.

    Attributes:
        name: the switch of `rewrite`.
        ops: op types that only this fusion, or a later one, puts into a model.
        attribute: an attribute of our ops that only this fusion sets to a value other than 0; "" for none.
    """

    name: str
    ops: frozenset[str]
    attribute: str = ""

    @property
    def option(self) -> str:
        """The option of `onnx-cbp rewrite` that switches it off."""
        return f"--no-{self.name.replace('_', '-')}"

    def made(self, node: onnx.NodeProto) -> bool:
        """Whether a node is what this fusion makes."""
        if node.domain != DOMAIN:
            return False
        return node.op_type in self.ops or any(a.name == self.attribute and a.i for a in node.attribute)


#: In the order in which fusions build on each other: each can be on only if those before it that it needs are on.
_RECOMPUTED = frozenset({"BatchNormReluTrainUpdate", "BatchNormRecomputeReluGrad"})
FUSIONS = (
    Fusion(
        "one_pass",
        frozenset({"BatchNormTrain", "BatchNormTrainUpdate", "BatchNormGrad", "BatchNormReluGrad"}) | _RECOMPUTED,
    ),
    Fusion("fold_relu", frozenset({"BatchNormReluGrad"}) | _RECOMPUTED, attribute="relu"),
    Fusion("recompute_relu", _RECOMPUTED),
)
