"""Writes batch norms whose statistics the graph computes as arithmetic, so that gradients pass the statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.analysis import made_statistics_sites
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.sites import InferenceSite, label
from onnx_cbp.graph_passes.core.splice import Names, Splice
from onnx_cbp.graph_passes.core.types import Types

_BROADCASTS_SINCE = 7


class SpellOutPass(InPlacePass):
    """A BatchNormalization in inference form whose mean or variance depends on data becomes arithmetic.

        Y = (X - mean) * (scale / sqrt(var + epsilon)) + B

    ONNX Runtime's gradient builder turns each such op into one that trains, with the statistics of X's batch. Its
    values are then wrong, and gradients do not pass mean and variance, if these belong to each sample (a layer norm in
    the form of a batch norm), to a weight (which is standardised), or to anything else that the graph computes. If they
    are the statistics of the batch, the op stays, since the builder handles it rightly. So it does with running
    statistics, unless they depend on a trained parameter.

    Args:
        trained: names of the parameters that are trained.
    """

    def __init__(self, trained: Sequence[str] = ()) -> None:
        super().__init__()
        self._trained = frozenset(trained)

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place.

        Raises:
            OnnxCbpError: the rank of X is not known, or the opset is older than 7, which cannot broadcast.
        """
        sites = made_statistics_sites(model, self._trained)
        names, types = Names(model), Types(model)
        for site in sites:
            _spell_out(site, onnx_opset(model.opset_imports), names, types)
        return PassResult(model, bool(sites))


def _spell_out(site: InferenceSite, opset: int, names: Names, types: Types) -> None:
    shape, dtype = types.shape(site.X), types.of(site.X)
    where = f"node '{label(site.node)}' ({site.form}) has statistics that are made in the graph, "
    if shape is None or len(shape) < 2 or dtype is None:
        raise OnnxCbpError(
            f"{where}and the rank or type of '{site.X.name}' is not known: run onnx.shape_inference on the model first"
        )
    if opset < _BROADCASTS_SINCE:
        raise OnnxCbpError(f"{where}which opset {opset} cannot spell out: convert to opset 7 or newer")
    splice = Splice(site.node, names, types)
    sizes = splice.constant("channels", ir.tensor(np.array([-1] + [1] * (len(shape) - 2), np.int64)))

    def vector(value: ir.Value, suffix: str) -> ir.Value:
        (spread,) = splice.add("Reshape", (value, sizes), ((f"{suffix}_spread", types.of(value), None),))
        return splice.cast(spread, dtype, f"{suffix}_as_X")

    def op(op_type: str, *inputs: ir.Value, full: bool = False) -> ir.Value:
        like = site.X.shape if full else None
        return splice.add(op_type, inputs, ((op_type.lower(), dtype, like),))[0]

    epsilon = splice.constant("epsilon", ir.tensor(np.array(site.epsilon, np.float32).astype(dtype.numpy())))
    std = op("Sqrt", op("Add", vector(site.var, "var"), epsilon))
    slope = op("Div", vector(site.scale, "scale"), std)
    normal = op("Mul", op("Sub", site.X, vector(site.mean, "mean"), full=True), slope, full=True)
    splice.hand_over(site.Y, op("Add", normal, vector(site.B, "B"), full=True))
    splice.commit()
