"""Random models with subgraphs, functions, sequences and optionals, whose outputs are whatever ONNX allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Every tensor of floats has this shape; channels at axis 1, so that batch norms and Gemms fit everywhere.
SHAPE = (3, 3)
_OWN = "local"

_TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, SHAPE)
_TYPES = {
    "float": _TENSOR,
    "bool": helper.make_tensor_type_proto(TensorProto.BOOL, []),
    "sequence": helper.make_sequence_type_proto(_TENSOR),
    "optional": helper.make_optional_type_proto(_TENSOR),
}


class _Scope:
    """What a graph has so far, and the values of the graphs around it by kind."""

    def __init__(self, around: _Scope | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, list[str]] = {kind: [] for kind in _TYPES}  # by nodes of this graph
        self.given: dict[str, list[str]] = {kind: [] for kind in _TYPES}  # inputs and constants of this graph
        self.around = around

    def read(self, kind: str) -> list[str]:
        own = self.made[kind] + self.given[kind]
        return own if self.around is None else own + self.around.read(kind)


class RandomModel:
    """A model made of a seed.

    Attributes:
        model: it; valid by onnx.checker.
        feeds: inputs for it.
    """

    def __init__(self, seed: int, opset: int = 17) -> None:
        self._rng = np.random.default_rng(seed)
        self._count = 0
        self._constants: list[onnx.TensorProto] = []
        self._opset = opset
        self._functions = [self._function(index) for index in range(2)]
        scope = _Scope()
        inputs = [("x", "float"), ("z", "float"), ("c", "bool")]
        for name, kind in inputs:
            scope.given[kind].append(name)
        for name in ("w", "u"):
            scope.given["float"].append(self._constant(self._rng.normal(size=SHAPE), name))
        for _ in range(self._rng.integers(3, 9)):
            self._add(scope, depth=2)
        names = self._outputs(scope)
        graph = helper.make_graph(
            scope.nodes,
            "g",
            [_info(name, kind) for name, kind in inputs],
            [_info(name, kind) for name, kind in names],
            self._constants,
        )
        imports = [helper.make_opsetid("", opset), helper.make_opsetid(_OWN, 1)]
        self.model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=self._functions)
        self.feeds = {
            "x": self._rng.normal(size=SHAPE).astype(np.float32),
            "z": self._rng.normal(size=SHAPE).astype(np.float32),
            "c": np.array(bool(self._rng.integers(2))),
        }

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def _constant(self, values: np.ndarray, name: str | None = None) -> str:
        name = name or self._name()
        values = np.asarray(values)
        array = values.astype(np.float32) if values.dtype.kind == "f" else values
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def _pick(self, names: list[str]) -> str:
        return names[self._rng.integers(len(names))]

    def _node(self, scope: _Scope, op: str, inputs: list[str], kind: str = "float", **attributes: object) -> str:
        (name,) = self._nodes(scope, op, inputs, [kind], **attributes)
        return name

    def _nodes(
        self, scope: _Scope, op: str, inputs: list[str], kinds: list[str], domain: str = "", **attributes: object
    ) -> list[str]:
        names = [self._name() for _ in kinds]
        scope.nodes.append(helper.make_node(op, inputs, names, domain=domain, **attributes))
        for name, kind in zip(names, kinds, strict=True):
            scope.made[kind].append(name)
        return names

    def _add(self, scope: _Scope, depth: int) -> None:
        simple = [self._copy, self._copy, self._arithmetic, self._batch_norm, self._transposes]
        rest = [self._sequence, self._optional, self._call, self._dropout]
        nested: list[Callable[[_Scope, int], None]] = [self._if, self._loop, self._scan]
        if depth and self._rng.random() < 0.4:
            nested[self._rng.integers(len(nested))](scope, depth - 1)
        else:
            every = simple + rest
            every[self._rng.integers(len(every))](scope)

    def _copy(self, scope: _Scope) -> None:
        kinds = [kind for kind in _TYPES if scope.read(kind)]
        kind = kinds[self._rng.integers(len(kinds))]
        name = self._pick(scope.read(kind))
        for _ in range(self._rng.integers(1, 4)):
            name = self._node(scope, "Identity", [name], kind)

    def _arithmetic(self, scope: _Scope) -> None:
        a, b = self._pick(scope.read("float")), self._pick(scope.read("float"))
        op = self._pick(["Add", "Sub", "Relu", "Tanh", "Sum"])
        self._node(scope, op, [a] if op in ("Relu", "Tanh") else [a, b])

    def _batch_norm(self, scope: _Scope) -> None:
        x = self._pick(scope.read("float"))
        if self._rng.random() < 0.7:
            x = self._node(scope, self._pick(["Gemm", "MatMul"]), [x, self._constant(self._rng.normal(size=SHAPE))])
        if self._rng.random() < 0.3:
            x = self._node(scope, "Identity", [x])
        vectors = [self._constant(self._rng.uniform(0.5, 2, SHAPE[1])) for _ in range(4)]
        self._node(scope, "BatchNormalization", [x, *vectors])

    def _transposes(self, scope: _Scope) -> None:
        x = self._pick(scope.read("float"))
        for _ in range(self._rng.integers(1, 4)):
            x = self._node(scope, "Transpose", [x], perm=[1, 0])

    def _dropout(self, scope: _Scope) -> None:
        self._node(scope, "Dropout", [self._pick(scope.read("float"))])

    def _sequence(self, scope: _Scope) -> None:
        floats, sequences = scope.read("float"), scope.read("sequence")
        first = self._constant(np.array(0, np.int64))
        what = self._rng.integers(4 if sequences else 2)
        if what == 0:
            self._node(scope, "SequenceConstruct", [self._pick(floats), self._pick(floats)], "sequence")
        elif what == 1:
            sizes = self._constant(np.array([1, 2], np.int64))
            parts = self._name()
            scope.nodes.append(helper.make_node("SplitToSequence", [self._pick(floats), sizes], [parts], axis=1))
            ends = []
            for index in (1, 0):
                ends.append(self._name())
                at = self._constant(np.array(index, np.int64))
                scope.nodes.append(helper.make_node("SequenceAt", [parts, at], [ends[-1]]))
            self._node(scope, "Concat", ends, axis=1)
        elif what == 2:
            self._node(scope, "SequenceAt", [self._pick(sequences), first])
        else:
            self._node(scope, "SequenceInsert", [self._pick(sequences), self._pick(floats)], "sequence")

    def _optional(self, scope: _Scope) -> None:
        optionals = scope.read("optional")
        if optionals and self._rng.random() < 0.6:
            self._node(scope, "OptionalGetElement", [self._pick(optionals)])
        else:
            self._node(scope, "Optional", [self._pick(scope.read("float"))], "optional")

    def _function(self, index: int) -> onnx.FunctionProto:
        """Of two inputs and two results, of which one may be a copy of an input or of the other."""
        nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
        for name in ("p", "q"):
            op = self._pick(["Identity", "Identity", "Relu"])
            nodes.append(helper.make_node(op, [self._pick(["a", "b", "sum"])], [name]))
        imports = [helper.make_opsetid("", self._opset)]
        return helper.make_function(_OWN, f"f{index}", ["a", "b"], ["p", "q"], nodes, imports)

    def _call(self, scope: _Scope) -> None:
        inputs = [self._pick(scope.read("float")) for _ in range(2)]
        self._nodes(scope, f"f{self._rng.integers(2)}", inputs, ["float", "float"], _OWN)

    def _if(self, scope: _Scope, depth: int) -> None:
        kinds = [kind for kind in ("float", "float", "bool", "sequence") if scope.read(kind)]
        kinds = [self._pick(kinds) for _ in range(self._rng.integers(1, 4))]
        branches = [self._subgraph(_Scope(scope), [], kinds, depth) for _ in range(2)]
        self._nodes(
            scope, "If", [self._pick(scope.read("bool"))], kinds, then_branch=branches[0], else_branch=branches[1]
        )

    def _loop(self, scope: _Scope, depth: int) -> None:
        inner = _Scope(scope)
        states = ["float"] * self._rng.integers(1, 3)
        inputs = [(self._name(), helper.make_tensor_type_proto(TensorProto.INT64, []))]
        for kind in ("bool", *states):
            inputs.append((self._name(), _TYPES[kind]))
            inner.given[kind].append(inputs[-1][0])
        scanned = self._rng.integers(0, 3)
        on = self._node(inner, "Identity", [inputs[1][0]], "bool")
        body = self._subgraph(inner, inputs, [*states, *["float"] * scanned], depth, first=[(on, "bool")])
        trips = self._constant(np.array(self._rng.integers(1, 4), np.int64))
        fed = [self._pick(scope.read("float")) for _ in states]
        results = self._nodes(scope, "Loop", [trips, "", *fed], [*states, *["float"] * scanned], body=body)
        self._last(scope, results[len(states) :], 0)

    def _scan(self, scope: _Scope, depth: int) -> None:
        inner = _Scope(scope)
        row = helper.make_tensor_type_proto(TensorProto.FLOAT, SHAPE[1:])
        inputs = [(self._name(), _TYPES["float"]), (self._name(), row)]
        inner.given["float"].append(inputs[0][0])
        self._node(inner, "Add", [inputs[0][0], inputs[1][0]])
        scanned = self._rng.integers(1, 3)
        body = self._subgraph(inner, inputs, ["float"] * (1 + scanned), depth)
        fed = [self._pick(scope.read("float")), self._pick(scope.read("float"))]
        results = self._nodes(scope, "Scan", fed, ["float"] * (1 + scanned), body=body, num_scan_inputs=1)
        self._last(scope, results[1:], SHAPE[0] - 1)

    def _last(self, scope: _Scope, stacked: list[str], index: int) -> None:
        """Let what a Loop or Scan stacked be read by its element: a tensor of the shape that all have."""
        for name in stacked:
            scope.made["float"].remove(name)
            self._node(scope, "Gather", [name, self._constant(np.array(index, np.int64))], axis=0)

    def _subgraph(
        self,
        scope: _Scope,
        inputs: list[tuple[str, onnx.TypeProto]],
        kinds: list[str],
        depth: int,
        first: list[tuple[str, str]] | None = None,
    ) -> onnx.GraphProto:
        for _ in range(self._rng.integers(0, 4)):
            self._add(scope, depth)
        outputs = list(first or [])
        for kind in kinds:
            own = [name for name in scope.made[kind] if (name, kind) not in outputs]
            if own and self._rng.random() < 0.5:
                outputs.append((self._pick(own), kind))
            else:
                outputs.append((self._node(scope, "Identity", [self._pick(scope.read(kind))], kind), kind))
        return helper.make_graph(
            scope.nodes,
            self._name(),
            [helper.make_value_info(name, proto) for name, proto in inputs],
            [_info(name, kind) for name, kind in outputs],
        )

    def _outputs(self, scope: _Scope) -> list[tuple[str, str]]:
        """Of the main graph: values of nodes, and now and then inputs, constants, or the same value once more."""
        every = [(name, kind) for kind in _TYPES for name in scope.made[kind]]
        given = [(name, kind) for kind in ("float", "bool") for name in scope.given[kind]]
        chosen = [every[self._rng.integers(len(every))] for _ in range(self._rng.integers(1, 6))]
        if self._rng.random() < 0.7:
            chosen = list(dict.fromkeys(chosen))
        if self._rng.random() < 0.3:
            chosen.append(given[self._rng.integers(len(given))])
        return chosen


def _info(name: str, kind: str) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, _TYPES[kind])
