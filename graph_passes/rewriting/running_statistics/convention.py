"""Which running variance a rewritten batch norm keeps: ONNX's biased one, or PyTorch's unbiased one."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import Site, label
from onnx_cbp.graph_passes.dialects import is_rewritten_forward


def running_variance_is_unbiased(node: ir.Node) -> bool | None:
    """Whether the running variance is updated with count / (count - 1) of the batch's variance.

    Args:
        node: any node.

    Returns:
        None if the node is no batch norm of ours, or updates no running variance.
    """
    if not is_rewritten_forward(node):
        return None
    if "unbiased" in node.attributes:
        return bool(node.attributes["unbiased"].as_int())
    for reader in _readers(_variance(node)):
        if (reader.domain, reader.op_type) == (DOMAIN, "RunningStats"):
            return bool(reader.attributes["unbiased"].as_int())
    return None


def check_convention(sites: Sequence[Site], unbiased: bool) -> None:
    """Refuse a model in which a batch norm would keep another convention than the one that is wanted.

    Biased is the default, so a model that was rewritten as unbiased stays unbiased.

    Raises:
        OnnxCbpError: unbiased running variances are wanted, and one is already rewritten with biased ones.
    """
    for site in sites:
        if unbiased and running_variance_is_unbiased(site.node) is False:
            raise OnnxCbpError(
                f"node '{label(site.node)}' ({site.form}) cannot get an unbiased running variance: it was rewritten "
                "with the biased one: start from the original model"
            )


def _variance(node: ir.Node) -> ir.Value | None:
    """The batch variance of an op that does not update the running variance itself."""
    return node.inputs[4] if node.op_type == "ChannelNormalize" else node.outputs[2]


def _readers(value: ir.Value | None) -> list[ir.Node]:
    return [] if value is None else [use.node for use in value.uses()]
