"""Writes the pads of an op as numbers, if it only names a rule (auto_pad)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.windows import kernel_of, of_windows

_POOLS = ("AveragePool", "LpPool", "MaxPool")
_OPS = ("Conv", "ConvTranspose", *_POOLS)
_SAME = ("SAME_UPPER", "SAME_LOWER")


class ExplicitPadsPass(InPlacePass):
    """Replaces `auto_pad` of convolutions and pools by the `pads` that it stands for; nothing else changes.

    ONNX Runtime's gradient builder ignores auto_pad = SAME_UPPER of a convolution, as if it had no pads. Its gradient
    of such an average pool is wrong too. Neither causes an error.

    Args:
        among: the nodes to check; None: all.

    Raises:
        OnnxCbpError: the pads depend on a size that is not known.
    """

    def __init__(self, among: Collection[ir.Node] | None = None) -> None:
        super().__init__()
        self._among = among

    def call(self, model: ir.Model) -> PassResult:
        """Spell out in place; nothing is changed where pads are not known."""
        types = Types(model)
        found = {}
        for node in all_nodes(model):
            if node.domain == "" and node.op_type in _OPS and (self._among is None or node in self._among):
                rule = node.attributes.get("auto_pad")
                if rule is not None and not rule.is_ref():
                    found[node] = _pads(node, rule.as_string(), types)
        for node, pads in found.items():
            if node.attributes.pop("auto_pad").as_string() == "VALID":
                node.attributes.pop("pads", None)
            elif pads is not None:
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)
                node.attributes.pop("ceil_mode", None)  # SAME rounds up itself, and its windows end with the pads
        return PassResult(model, bool(found))


def _pads(node: ir.Node, rule: str, types: Types) -> list[int] | None:
    """The pads of all axes, first the begins, then the ends; None if the rule adds nothing to the node's own pads."""
    if rule not in _SAME:
        return None
    shape = None if node.inputs[0] is None else types.shape(node.inputs[0])
    kernel = _kernel(node, shape, types)
    if kernel is None or (shape is not None and len(shape) != len(kernel) + 2):
        raise _unknown(node, f"the shape of its weight '{node.inputs[1].name if node.inputs[1] else ''}'")
    rank = len(kernel)
    strides, dilations, more = (of_windows(node, name, rank) for name in ("strides", "dilations", "output_padding"))
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if node.op_type == "ConvTranspose":
        if "output_shape" in node.attributes:
            return None  # the output's shape decides the pads
        totals = [extent - stride + extra for extent, stride, extra in zip(extents, strides, more, strict=True)]
        if any(total < 0 for total in totals):
            raise _unknown(node, "what a stride larger than the kernel means")
    else:
        totals = [_total(node, axis, extents[axis], strides[axis], shape) for axis in range(rank)]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*smaller, *larger] if rule == "SAME_UPPER" else [*larger, *smaller]


def _kernel(node: ir.Node, data: Sequence[int | str | None] | None, types: Types) -> list[int] | None:
    if "kernel_shape" in node.attributes:
        return kernel_of(node, data)
    shape = None if node.inputs[1] is None else types.shape(node.inputs[1])
    if shape is None:
        return None
    sizes = [size for size in shape[2:] if isinstance(size, int)]
    return sizes if len(sizes) == len(shape) - 2 else None


def _total(node: ir.Node, axis: int, extent: int, stride: int, shape: Sequence[int | str | None] | None) -> int:
    """The sum of both pads of an axis: as many as ceil(size / stride) windows need."""
    if stride == 1:
        return extent - 1  # for any size
    X = node.inputs[0]
    size = None if shape is None else shape[axis + 2]
    if not isinstance(size, int):
        raise _unknown(node, f"size {axis + 2} of its input '{X.name if X else ''}', and its stride is {stride}")
    return max((-(-size // stride) - 1) * stride + extent - size, 0)


def _unknown(node: ir.Node, what: str) -> OnnxCbpError:
    return OnnxCbpError(
        f"node '{label(node)}' ({node.op_type}) has auto_pad = {node.attributes['auto_pad'].as_string()}, and {what} "
        "is not known: export with a fixed size, or with explicit pads"
    )
