"""Names of batch norms, and which of them a pattern chooses."""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterable

import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import origin

#: Under this key PyTorch's default exporter writes the modules that contain a node: the text of a list, from the root
#: ("") inwards, with the name of the operation at the end.
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
_BUILT = "_BatchNormInternal"  # ONNX Runtime's gradient builder appends this to the name of a batch norm


def module_paths(node: ir.Node) -> tuple[str, ...]:
    """The paths of the modules from which a node was exported ("layer1", "layer1.bn"), the innermost last.

    There are none if the exporter did not write them.
    """
    text = node.metadata_props.get(NAME_SCOPES)
    if text is None:
        return ()
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the text can be anything
        return ()
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        return ()
    return tuple(scope for scope in scopes[:-1] if scope)


def module_path(node: ir.Node) -> str:
    """The path of the module from which a node was exported; "" if it is not known."""
    return next(reversed(module_paths(node)), "")


def original_name(node: ir.Node) -> str:
    """The name of a batch norm in the original model."""
    gather = gather_of(node)
    if gather is not None:
        return gather.attributes["layer"].as_string()
    name = label(node)
    while node.domain == DOMAIN and name.rpartition("/")[2] in OPERATORS:  # each Splice appends the name of an op
        name = name.rpartition("/")[0]
    return name


def given_name(node: ir.Node) -> str:
    """The name of a batch norm in the forward graph."""
    return original_name(node).removesuffix(_BUILT)


def choosing(patterns: Iterable[str], node: ir.Node) -> list[str]:
    """Those patterns that choose a batch norm, by the name of its node or by the path of a module that contains it.

    Args:
        patterns: for `fnmatch` (*, ?, [...]), case-sensitive.
        node: the node of the batch norm, original or rewritten.
    """
    names = (label(node), original_name(node), given_name(node), *module_paths(node))
    return [pattern for pattern in patterns if any(fnmatch.fnmatchcase(name, pattern) for name in names)]


def gather_of(node: ir.Node) -> ir.Node | None:
    """The AllGather that feeds a synchronised ChannelNormalize; None if there is none."""
    return None if (node.domain, node.op_type) != (DOMAIN, "ChannelNormalize") else gathered(node.inputs[3])


def gathered(mean: ir.Value | None) -> ir.Node | None:
    """The AllGather from which ChannelStatsMerge computed a mean; None if there is none."""
    merge = None if mean is None else origin(mean)
    if merge is None or (merge.domain, merge.op_type) != (DOMAIN, "ChannelStatsMerge"):
        return None
    value = merge.inputs[0]
    gather = None if value is None else origin(value)
    return gather if gather is not None and (gather.domain, gather.op_type) == (DOMAIN, "AllGather") else None
