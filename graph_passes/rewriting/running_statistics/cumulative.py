"""The cumulative average of running statistics, which PyTorch's momentum=None means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.batch_norms.counting import counter_of
from onnx_cbp.graph_passes.core.sites import ForwardSite, label
from onnx_cbp.graph_passes.core.splice import Splice, is_used

_BROADCASTS_SINCE = 7
_ONE = ir.Shape([1])
#: The suffix of a counter's name for its next value.
UPDATED = "_updated"


class Counters:
    """Counts the batches that each module has seen: a value before its layer's step, and one after it.

    If steps write running statistics in place, the counter is a parameter next to them, which must exist. If updated
    statistics are outputs, the new count becomes an output too, with "_updated" after its name; the counter becomes an
    input of the graph if there is none with its name.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inputs = {value.name: value for value in (*model.graph.initializers.values(), *model.graph.inputs)}
        self._latest: dict[ir.Value, ir.Value] = {}  # by the running mean that the next call reads
        self._inner: dict[ir.Value, str] = {}  # the name of a value while it is not an output

    def check(self, site: ForwardSite, opset: int) -> None:
        """Refuse a batch norm whose steps nothing can count.

        Raises:
            OnnxCbpError: see above.
        """
        reason = self._obstacle(site, opset)
        if reason is not None:
            raise OnnxCbpError(f"node '{label(site.node)}' ({site.form}) cannot take a cumulative average: {reason}")

    def _obstacle(self, site: ForwardSite, opset: int) -> str | None:
        mean = site.running_mean
        assert mean is not None
        if opset < _BROADCASTS_SINCE:
            return f"opset {opset} does not broadcast: convert to opset {_BROADCASTS_SINCE} or newer"
        if site.node.graph is not self._model.graph:
            return "it stands in a subgraph, where no step is counted: move it out of the If, Loop or Scan"
        if is_written(site):
            name = counter_of(mean)
            if name in self._inputs:
                return None
            return (
                f"the graph has no parameter '{name}' that counts: make the artifacts with "
                "onnx_cbp.training.generate_artifacts(..., rewrite_options={'momentum': 'cumulative'})"
            )
        if is_used(site.updated_mean) and is_used(site.updated_var):
            return None
        return (
            "its running statistics are neither parameters nor outputs of the graph, so no step keeps them: use "
            "onnx_cbp.training.generate_artifacts(..., rewrite_options={'momentum': 'cumulative'})"
        )

    def before(self, site: ForwardSite) -> ir.Value:
        """How many batches the site's module has seen before its step, float [1]."""
        mean = site.running_mean
        assert mean is not None
        if mean in self._latest:
            return self._latest[mean]
        name = counter_of(mean)
        if name not in self._inputs:
            counter = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=_ONE)
            self._model.graph.inputs.append(counter)
            self._inputs[name] = counter
        return self._inputs[name]

    def move(self, updated_mean: ir.Value, counter: ir.Value, behind: ir.Value) -> None:
        """Let readers of an updated mean continue from the count after its step, which becomes an output."""
        outputs = self._model.graph.outputs
        name = f"{counter.name}{UPDATED}"
        if counter.producer() is not None:  # until now, the count of the call before is an output
            name, counter.name = counter.name or "", self._inner.pop(counter)
            outputs.remove(counter)
        if all(value.name != name for value in outputs):  # of calls that share a statistic, only one counts
            self._inner[behind], behind.name = behind.name or "", name
            outputs.append(behind)
        self._latest[updated_mean] = behind


def is_written(site: ForwardSite) -> bool:
    """Whether the steps of a site write its running statistics in place, into the caller's arrays."""
    mean = site.running_mean
    return site.updates_in_place and mean is not None and mean.is_graph_input() and not mean.is_initializer()


def count_batch(splice: Splice, before: ir.Value, elements: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Append the nodes that count a batch, unless it is empty.

        seen = elements > 0,  behind = before + seen,  part = seen / max(behind, 1)

    Args:
        splice: gets the nodes.
        before: how many batches there were, float [1].
        elements: how many elements the batch has, int64 [].

    Returns:
        (behind, part): how many batches there are now, and the new batch's part of the average, float [1] each.
    """
    one = splice.constant("one", ir.tensor(np.ones(1, np.float32)))
    seen = elements
    for dtype, name in ((ir.DataType.BOOL, "is_some"), (ir.DataType.FLOAT, "seen")):
        (seen,) = splice.add("Cast", (seen,), ((name, dtype, ir.Shape([])),), {"to": dtype.value})
    (behind,) = splice.add("Add", (before, seen), (("num_batches_tracked", ir.DataType.FLOAT, _ONE),))
    (divisor,) = splice.add("Max", (behind, one), (("divisor", ir.DataType.FLOAT, _ONE),))
    (part,) = splice.add("Div", (seen, divisor), (("part", ir.DataType.FLOAT, _ONE),))
    return behind, part


def averaging(splice: Splice, part: ir.Value, dtype: ir.DataType) -> Callable[[ir.Value, ir.Value, str], ir.Value]:
    """Append the parts of an average; returns a function that appends the average of a statistic.

    average = running * (1 - part) + batch * part
    """
    new = splice.cast(part, dtype, "new_part")
    one = splice.constant("whole", ir.tensor(np.ones(1, dtype.numpy()), dtype=dtype))
    (kept,) = splice.add("Sub", (one, new), (("kept_part", dtype, _ONE),))

    def average(running: ir.Value, batch: ir.Value, name: str) -> ir.Value:
        (old,) = splice.add("Mul", (running, kept), ((f"{name}_kept", dtype, batch.shape),))
        (more,) = splice.add("Mul", (batch, new), ((f"{name}_new", dtype, batch.shape),))
        return splice.add("Add", (old, more), ((f"{name}_average", dtype, batch.shape),))[0]

    return average
