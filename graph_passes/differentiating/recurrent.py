"""Unrolls recurrent networks of a fixed length (RNN, GRU, LSTM), which have no gradient rule.

The equations are those of ONNX's specification. Products that depend only on the data are computed for all steps at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.dialects._reading import attribute, optional_input

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_KNOWN_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh")
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_OUTPUTS = ("Y", "Y_h", "Y_c")
_SEQUENCE_LENS, _P = 4, 7
_LONGEST = 512  # steps: each becomes about 10 nodes, and 40 of gradients


def is_recurrent(node: ir.Node) -> bool:
    """Whether the node is one of RNN, GRU and LSTM."""
    return node.domain == "" and node.op_type in _GATES


def unrolled(node: ir.Node, inputs: Sequence[onnx.TypeProto | None]) -> onnx.FunctionProto:
    """A function that computes what the node does, in ops of opset 13 and newer.

    Raises:
        OnnxCbpError: its length is not fixed or too large, or its form is not supported.
    """
    length, hidden = _sizes(node, inputs)
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    order = directions.get(_text(node, "direction", "forward"), [False])
    _check(node)
    names = _activations(node, len(order))
    written = _Written(node, hidden)
    ends: list[dict[str, str]] = []
    sequences = []
    for index, backwards in enumerate(order):
        steps, state = written.run(index, len(order), names[index], length, backwards=backwards)
        sequences.append(written.stacked(steps, 0))
        ends.append(state)
    written.stacked(sequences, 1, name="Y")
    for name in _OUTPUTS[1 : 3 if node.op_type == "LSTM" else 2]:
        written.stacked([state[name] for state in ends], 0, name=name)
    function = onnx.FunctionProto(name=node.op_type, domain="")
    function.input.extend(_INPUTS[: len(node.inputs)])
    function.output.extend(_OUTPUTS[: len(node.outputs)])
    function.node.extend(written.nodes)
    return function


def _sizes(node: ir.Node, inputs: Sequence[onnx.TypeProto | None]) -> tuple[int, int]:
    """The number of steps, and the size of the hidden state."""
    dims = [[] if each is None else each.tensor_type.shape.dim for each in inputs[:3]]
    length = dims[0][0].dim_value if dims[0] else 0
    hidden = dims[2][2].dim_value if len(dims[2]) > 2 else attribute(node, "hidden_size", 0)
    if not length or not hidden:
        raise _refused(node, "its sequence has no fixed length: export the model with only the batch dynamic")
    if length > _LONGEST:
        raise _refused(node, f"its sequence has {length} steps, and at most {_LONGEST} are unrolled: cut it")
    return length, hidden


def _check(node: ir.Node) -> None:
    if optional_input(node, _SEQUENCE_LENS) is not None:
        raise _refused(node, "it has sequence_lens: pad the sequences to one length, and leave it out")
    if optional_input(node, _P) is not None:
        raise _refused(node, "it has peepholes (P), which are not unrolled: leave them out")
    for name in ("clip", "input_forget", "layout"):
        if name in node.attributes and node.attributes[name].value:
            raise _refused(node, f"{name} is not unrolled: leave it out")


def _activations(node: ir.Node, directions: int) -> list[list[str]]:
    given = node.attributes.get("activations")
    each = _ACTIVATIONS[node.op_type]
    names = each * directions if given is None else list(given.as_strings())
    wrong = next((name for name in names if name not in _KNOWN_ACTIVATIONS), None)
    if wrong is not None or len(names) != len(each) * directions:
        raise _refused(node, f"activations {names} are not unrolled: use {', '.join(_KNOWN_ACTIVATIONS)}")
    return [names[i * len(each) : (i + 1) * len(each)] for i in range(directions)]


def _refused(node: ir.Node, reason: str) -> OnnxCbpError:
    return OnnxCbpError(f"node '{label(node)}' ({node.op_type}) cannot be differentiated: {reason}")


def _text(node: ir.Node, name: str, default: str) -> str:
    found = node.attributes.get(name)
    return default if found is None else found.as_string()


class _Written:
    """The nodes of a function while its steps are written."""

    def __init__(self, node: ir.Node, hidden: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._node = node
        self._op = node.op_type
        self._hidden = hidden
        self._given = {name: optional_input(node, i) is not None for i, name in enumerate(_INPUTS)}
        self._linear_before_reset = bool(attribute(node, "linear_before_reset", 0))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """Write a node; return its output, or a list of outputs."""
        made = [name or f"{op_type}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op_type, inputs, made, **attributes))
        return made[0] if outputs == 1 else made

    def ints(self, *numbers: int) -> str:
        return str(self.op("Constant", value=onnx.numpy_helper.from_array(np.array(numbers, np.int64))))

    def stacked(self, values: Sequence[str], axis: int, name: str = "") -> str:
        """Values, stacked along a new axis."""
        apart = [self.op("Unsqueeze", value, self.ints(axis)) for value in values]
        return str(self.op("Concat", *apart, axis=axis, name=name))

    def parts(self, value: str, axis: int, sizes: Sequence[int]) -> list[str]:
        """The parts of a value that is cut along an axis."""
        if len(sizes) == 1:
            return [value]
        return list(self.op("Split", value, self.ints(*sizes), axis=axis, outputs=len(sizes)))

    def run(
        self, index: int, directions: int, activations: Sequence[str], length: int, *, backwards: bool
    ) -> tuple[list[str], dict[str, str]]:
        """The hidden state of each step, in the order of the data; and the last states, by output name."""
        gates = _GATES[self._op]
        sizes = [self._hidden] * gates

        def own(name: str) -> str | None:
            """This direction's part of an input."""
            if not self._given[name]:
                return None
            part = self.parts(name, 0, [1] * directions)[index]
            return str(self.op("Squeeze", part, self.ints(0)))

        W, R, B = (own(name) for name in ("W", "R", "B"))
        assert W is not None
        assert R is not None
        data = self.op("MatMul", "X", self.op("Transpose", W, perm=[1, 0]))
        recurrence = self.op("Transpose", R, perm=[1, 0])
        bias = None
        if B is not None:
            first, bias = self.parts(B, 0, [gates * self._hidden] * 2)
            if not (self._op == "GRU" and self._linear_before_reset):
                first, bias = self.op("Add", first, bias), None
            data = self.op("Add", data, first)
        slices = self.parts(data, 0, [1] * length)
        hidden, cell = own("initial_h"), own("initial_c")
        steps: list[str] = [""] * length
        for t in reversed(range(length)) if backwards else range(length):
            now = self.op("Squeeze", slices[t], self.ints(0))
            if self._op == "GRU":
                hidden = self._gru(now, hidden, recurrence, bias, activations)
            else:
                both = now if hidden is None else self.op("Add", now, self.op("MatMul", hidden, recurrence))
                if self._op == "RNN":
                    hidden = self.op(activations[0], both)
                else:
                    hidden, cell = self._lstm(self.parts(both, 1, sizes), cell, activations)
            steps[t] = str(hidden)
        return steps, {"Y_h": str(hidden), "Y_c": str(cell)}

    def _lstm(self, gates: Sequence[str], cell: str | None, activations: Sequence[str]) -> tuple[str, str]:
        """C = f C + i c and H = o h(C), with gates in the order i, o, f, c."""
        f, g, h = activations
        i, o, keep = (self.op(f, gate) for gate in gates[:3])
        new = self.op("Mul", i, self.op(g, gates[3]))
        cell = new if cell is None else self.op("Add", self.op("Mul", keep, cell), new)
        return self.op("Mul", o, self.op(h, cell)), str(cell)

    def _gru(self, now: str, hidden: str | None, recurrence: str, bias: str | None, activations: Sequence[str]) -> str:
        """H = (1 - z) h + z H, with gates in the order z, r, h."""
        f, g = activations
        size = self._hidden
        z, r, h = self.parts(now, 1, [size] * 3)
        before = None  # the state that the reset gate lets through
        if self._linear_before_reset:
            carried: str | None = bias if hidden is None else str(self.op("MatMul", hidden, recurrence))
            if hidden is not None and bias is not None:
                carried = str(self.op("Add", str(carried), bias))
            if carried is not None:
                more = self.parts(carried, 0 if hidden is None else 1, [size] * 3)
                z, r = self.op("Add", z, more[0]), self.op("Add", r, more[1])
                before = self.op("Mul", self.op(f, r), more[2])
        elif hidden is not None:
            outer, inner = self.parts(recurrence, 1, [2 * size, size])
            more = self.parts(self.op("MatMul", hidden, outer), 1, [size] * 2)
            z, r = self.op("Add", z, more[0]), self.op("Add", r, more[1])
            before = self.op("MatMul", self.op("Mul", self.op(f, r), hidden), inner)
        update = self.op(f, z)
        new = self.op(g, h if before is None else self.op("Add", h, before))
        rest = self.op("Sub", new, self.op("Mul", update, new))
        return str(rest if hidden is None else self.op("Add", rest, self.op("Mul", update, hidden)))
