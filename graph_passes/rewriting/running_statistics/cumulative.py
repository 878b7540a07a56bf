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
#: What stands behind the name of a counter in that of its next value.
UPDATED = "_updated"


class Counters:
    """How many batches each module has seen: a value before its layer's step, and one behind it.

    Where steps write running statistics in place, the counter is a parameter beside them, which is to be there. Where
    updated statistics are outputs, the count behind the step becomes one, with "_updated" behind its name; the counter
    becomes an input of the graph where there is none of its name.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inputs = {value.name: value for value in (*model.graph.initializers.values(), *model.graph.inputs)}
        self._latest: dict[ir.Value, ir.Value] = {}  # by the running mean that the next call reads
        self._inner: dict[ir.Value, str] = {}  # what an output is called where it is none

    def check(self, site: ForwardSite, opset: int) -> None:
        """Refuse a batch norm whose steps nothing counts.

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
        """Let what reads an updated mean go on from the count behind its step, which becomes an output."""
        outputs = self._model.graph.outputs
        name = f"{counter.name}{UPDATED}"
        if counter.producer() is not None:  # that of the call before is an output so far
            name, counter.name = counter.name or "", self._inner.pop(counter)
            outputs.remove(counter)
        if all(value.name != name for value in outputs):  # of calls that go on from one statistic, one counts
            self._inner[behind], behind.name = behind.name or "", name
            outputs.append(behind)
        self._latest[updated_mean] = behind


def is_written(site: ForwardSite) -> bool:
    """Whether the steps of a site write its running statistics in place, into what the caller feeds."""
    mean = site.running_mean
    return site.updates_in_place and mean is not None and mean.is_graph_input() and not mean.is_initializer()


def count_batch(splice: Splice, before: ir.Value, elements: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Append the nodes that count a batch, unless it is empty.

        seen = elements > 0,  behind = before + seen,  part = seen / max(behind, 1)

    Args:
        splice: where the nodes go.
        before: how many batches there were, float [1].
        elements: how many elements the batch has, int64 [].

    Returns:
        (behind, part): how many there are now, and the part that the new one is of the average, float [1] each.
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
    """Append the parts; returns what appends the average of a statistic.

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
