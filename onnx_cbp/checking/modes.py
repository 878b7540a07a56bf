"""Finds batch norms that a rewrite made train or froze as requested: these differ on purpose."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnx_cbp.graph_passes import ForwardSite, InferenceSite, find_sites, label
from onnx_cbp.graph_passes.core.batch_norms.naming import original_name
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.dialects import is_frozen_forward, is_rewritten_forward
from onnx_cbp.ir_models import to_ir

_NAMED = 3
#: The suffix of the name of the training form that a batch norm gets first.
_TRAINING = "/BatchNormalization"


@dataclass(frozen=True)
class Modes:
    """The batch norms that use other statistics than in the original, by the names of the original's nodes.

    Attributes:
        trained: they now use those of the batch, and no longer the running ones.
        frozen: the other way round.
    """

    trained: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    def note(self) -> str | None:
        """A sentence that names them; None if there are none."""
        made = []
        if self.trained:
            made.append(f"--train made {_names(self.trained)} train, with the statistics of the batch")
        if self.frozen:
            made.append(f"--freeze made {_names(self.frozen)} keep to the running statistics")
        return f"{', and '.join(made)}: the original does not, so results differ by that" if made else None

    def options(self) -> dict[str, list[str]]:
        """The options of `rewrite` that lead to this; none if nothing was changed."""
        chosen = {"train": self.trained, "freeze": self.frozen}
        return {option: [glob.escape(name) for name in names] for option, names in chosen.items() if names}


def changed_modes(original: onnx.ModelProto, rewritten: onnx.ModelProto) -> Modes:
    """Which batch norms of the original were made to train, or frozen, in the rewritten model.

    Raises:
        OnnxCbpError: a model is not valid ONNX.
    """
    rewritten_nodes = [node for node in all_nodes(to_ir(rewritten)) if is_rewritten_forward(node)]
    frozen = {original_name(node) for node in rewritten_nodes if is_frozen_forward(node)}
    training = {original_name(node) for node in rewritten_nodes} - frozen
    sites = [(label(site.node), site) for site in find_sites(to_ir(original))] if rewritten_nodes else []
    return Modes(
        tuple(
            n for n, site in sites if isinstance(site, InferenceSite) and not training.isdisjoint((n, n + _TRAINING))
        ),
        tuple(n for n, site in sites if isinstance(site, ForwardSite) and n in frozen),
    )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + more
