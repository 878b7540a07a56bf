"""Adds parameters that count batches, for batch norms that average over all batches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.analysis import find_sites
from onnx_cbp.graph_passes.core.batch_norms.counting import counter_of
from onnx_cbp.graph_passes.core.scopes import all_nodes
from onnx_cbp.graph_passes.core.sites import ForwardSite, label
from onnx_cbp.graph_passes.core.splice import Names, is_used
from onnx_cbp.graph_passes.rewriting.modes.freeze import Freezing
from onnx_cbp.graph_passes.rewriting.running_statistics.momentum import Momenta


class AddCountersPass(InPlacePass):
    """Every module whose batch norms `momenta` chooses with "cumulative" gets a counter: an initializer [1] of 0.

    It has PyTorch's name ("bn.num_batches_tracked" next to "bn.running_mean"), and `rewrite` counts in it.

    Args:
        momenta: which batch norms average over all batches.
        freezing: which do not, whatever `momenta` says.
        read: add an Identity that reads the counter, because ONNX Runtime's gradient builder removes unused
            initializers. `remove_readers` removes it again.

    Attributes:
        names: the names of the counters of the last call.
    """

    def __init__(self, momenta: Momenta, freezing: Freezing, *, read: bool = False) -> None:
        super().__init__()
        self._momenta, self._freezing, self._read = momenta, freezing, read
        self.names: list[str] = []

    def call(self, model: ir.Model) -> PassResult:
        """Add in place.

        Raises:
            OnnxCbpError: another value has the counter's name.
        """
        self.names = []
        for site in find_sites(model):
            if not isinstance(site, ForwardSite) or site.running_mean is None or self._freezing.chooses(site):
                continue
            mean = site.running_mean
            if self._momenta.is_cumulative(site.node) and mean.is_initializer() and counter_of(mean) not in self.names:
                self._add(counter_of(mean), model, site)
        return PassResult(model, modified=bool(self.names))

    def _add(self, name: str, model: ir.Model, site: ForwardSite) -> None:
        names = Names(model)
        if names.fresh(name) != name:
            raise OnnxCbpError(
                f"node '{label(site.node)}' ({site.form}) cannot take a cumulative average: its counter would be "
                f"'{name}', which the graph has already: give that value another name"
            )
        tensor = ir.tensor(np.zeros(1, np.float32), name=name)
        counter = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([1]), const_value=tensor)
        model.graph.register_initializer(counter)
        self.names.append(name)
        if self._read:
            copy = ir.Value(name=names.fresh(f"{name}/read"), type=counter.type, shape=counter.shape)
            model.graph.append(ir.node("Identity", [counter], outputs=[copy], name=names.fresh(f"{name}/Identity")))


def remove_readers(model: ir.Model, counters: list[str]) -> None:
    """Remove the nodes that read counters and whose results nothing reads, in place."""
    for node in list(all_nodes(model)):
        read = node.inputs[0] if len(node.inputs) == 1 else None
        if (node.domain, node.op_type) != ("", "Identity") or read is None or read.name not in counters:
            continue
        if not is_used(node.outputs[0]):
            assert node.graph is not None
            node.graph.remove(node, safe=True)
