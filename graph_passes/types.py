"""The element type of a value, also inside a model-local function, where values carry none."""

from __future__ import annotations

import onnx_ir as ir

from onnx_cbp.graph_passes.inference import infer_shapes
from onnx_cbp.graph_passes.scopes import all_nodes, import_domain

_SAME_AS_INPUT = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Relu", "Neg", "Abs", "Sqrt"}


class Types:
    """Element types of the values of a model."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._calls: dict[ir.OperatorIdentifier, list[ir.Node]] | None = None
        self._inferred: dict[str | None, ir.DataType | None] | None = None

    def of(self, value: ir.Value) -> ir.DataType | None:
        """The type of a value; None where it is not known, or differs from one call of its function to the next."""
        if value.dtype is not None:
            return value.dtype
        return self._of_origin(value) or self._infer().get(value.name)

    def _infer(self) -> dict[str | None, ir.DataType | None]:
        """What ONNX's type inference finds in the main graph, by name; asked only where nothing else tells."""
        if self._inferred is None:
            copy = self._model.clone()  # inference would write types and shapes all over the model
            import_domain(copy)  # a pass may be half done with the model
            infer_shapes(copy)
            values = [value for node in copy.graph for value in node.outputs]
            self._inferred = {value.name: value.dtype for value in values}
        return self._inferred

    def _of_origin(self, value: ir.Value) -> ir.DataType | None:
        producer = value.producer()
        if producer is None:
            return self._of_function_input(value)
        if producer.op_type == "Cast" and (to := producer.attributes.get("to")) and not to.is_ref():
            return ir.DataType(to.as_int())
        if producer.op_type == "Constant" and (tensor := producer.attributes.get("value")) and not tensor.is_ref():
            return tensor.as_tensor().dtype
        if producer.op_type in _SAME_AS_INPUT and producer.inputs[0] is not None:
            return self.of(producer.inputs[0])
        return None

    def _of_function_input(self, value: ir.Value) -> ir.DataType | None:
        found: set[ir.DataType | None] = set()
        for identifier, function in self._model.functions.items():
            for index, own in enumerate(function.inputs):
                if own is value:
                    found |= {self._of_argument(call, index) for call in self._calls_of(identifier)}
        return found.pop() if len(found) == 1 else None

    def _of_argument(self, call: ir.Node, index: int) -> ir.DataType | None:
        argument = call.inputs[index] if index < len(call.inputs) else None
        return None if argument is None else self.of(argument)

    def _calls_of(self, identifier: ir.OperatorIdentifier) -> list[ir.Node]:
        if self._calls is None:
            self._calls = {}
            for node in all_nodes(self._model):
                self._calls.setdefault(node.op_identifier(), []).append(node)
        return self._calls.get(identifier, [])
