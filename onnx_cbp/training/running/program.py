"""The graphs that training runs, made from the files of `generate_artifacts`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import onnx
import onnx_ir as ir

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.stepping.flatten_state import (
    GRADIENTS,
    PARAMETERS,
    STATISTICS,
    FlattenStatePass,
    following,
    own,
)
from onnx_cbp.graph_passes.stepping.join_step import join
from onnx_cbp.graph_passes.stepping.overwriting import may_overwrite
from onnx_cbp.graph_passes.stepping.parts import Cuts, find_cuts, take_part, take_whole
from onnx_cbp.graph_passes.stepping.training_graph import TrainingGraph
from onnx_cbp.graph_passes.stepping.vector_layout import VectorLayout
from onnx_cbp.ir_models import read_model, to_ir, to_proto
from onnx_cbp.training.optimizers import METADATA as OPTIMIZER
from onnx_cbp.validity import imported_opsets

Source = onnx.ModelProto | str | os.PathLike[str]


class Program:
    """A training graph, and its evaluation graph where there is one.

    Attributes:
        name: the training graph's name in messages.
        graph: the roles of its inputs and outputs.
        groups: the tensors that become one vector, by the vector's name.
        inputs: the inputs of a step other than the state, in order.
        outputs: its outputs other than the state, in order; the loss first.
        eval_inputs, eval_outputs: the same for the evaluation graph.
    """

    def __init__(self, training: Source, evaluation: Source | None = None) -> None:
        self.name = _name(training, "the training model")
        self._training = read_model(training)
        model = to_ir(self._training)
        graph = TrainingGraph.of(model)
        if graph is None:
            raise OnnxCbpError(f"{self.name} {_what_it_is(self._training)}")
        if not graph.gradients:
            raise OnnxCbpError(f"{self.name} is an evaluation model: it has no gradients: name the training model")
        self.graph = graph
        self.values = {value.name or "": value for value in model.graph.inputs}
        self.groups = {name: layout for name, layout in self._layouts() if layout.shapes}
        state = {*graph.parameters, *graph.updates}
        self.inputs = [value for name, value in self.values.items() if name not in state]
        made = {*graph.gradients.values(), *graph.updates.values()}
        self.outputs = [value.name or "" for value in model.graph.outputs if value.name not in made]
        self.eval_name = "" if evaluation is None else _name(evaluation, "the evaluation model")
        self._evaluation = None if evaluation is None else read_model(evaluation)
        if self._evaluation is not None:
            names = [value.name for value in self._evaluation.graph.input]
            self.eval_inputs = [v for v in to_ir(self._evaluation).graph.inputs if v.name not in graph.parameters]
            self.eval_outputs = [value.name for value in self._evaluation.graph.output]
            self._evaluated = names

    def _layouts(self) -> list[tuple[str, VectorLayout]]:
        shapes = {name: self._static(name) for name in self.graph.parameters}
        trained = list(self.graph.gradients)
        dtype = self.dtype(trained[0]) if trained else np.dtype(np.float32)
        moved = [name for name in self.graph.updates if name in shapes and self.dtype(name) == dtype]
        return [
            (name, VectorLayout({each: shapes[each] for each in members}, dtype))
            for name, members in ((PARAMETERS, trained), (STATISTICS, moved))
        ]

    def dtype(self, name: str) -> np.dtype:
        """The type of a parameter."""
        dtype = self.values[name].dtype
        assert dtype is not None
        return dtype.numpy()

    def _static(self, name: str) -> tuple[int, ...]:
        if name not in self.values:
            raise OnnxCbpError(f"{self.name} has no input '{name}', which it says is a parameter: generate it anew")
        shape = self.values[name].shape
        if shape is None or not shape.is_static():
            raise OnnxCbpError(f"{self.name}: the shape of the parameter '{name}' is not known: generate it anew")
        return tuple(shape.numpy())

    @property
    def fixed(self) -> list[str]:
        """Parameters that are separate inputs, since no step changes them."""
        grouped = {name for layout in self.groups.values() for name in layout.shapes}
        return [name for name in self.graph.frozen if name not in grouped and name not in self.graph.updates]

    @property
    def moved(self) -> list[str]:
        """Values outside of the groups that a step changes: the random state, and statistics of another type."""
        grouped = {name for layout in self.groups.values() for name in layout.shapes}
        return [name for name in self.graph.updates if name not in grouped]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter."""
        return self._static(name)

    def forward_backward(self, *, apart: bool = False) -> onnx.ModelProto:
        """Forward and backward, on vectors.

        Args:
            apart: with each parameter and each gradient by itself, under their own names.
        """
        return to_proto(self._flat(apart=apart), self._training)

    def step(self, optimizer: OptimizerProgram) -> onnx.ModelProto:
        """Forward, backward and the optimiser, on vectors."""
        model = self._flat()
        outputs = {value.name: value for value in model.graph.outputs}
        inputs = {value.name: value for value in model.graph.inputs}
        # The gradients are named as an output before the optimiser reads them.
        fed = {PARAMETERS: inputs[PARAMETERS], GRADIENTS: outputs[following(GRADIENTS)]}
        for name, value in join(model, optimizer.model(), fed).items():
            value.name = name
            model.graph.outputs.append(value)
        return to_proto(model, self._training)

    def evaluation(self, *, apart: bool = False) -> onnx.ModelProto:
        """The evaluation graph, on the same vectors, or with each parameter by itself."""
        assert self._evaluation is not None
        model = to_ir(self._evaluation)
        FlattenStatePass(self._vectors(apart=apart))(model)
        return to_proto(model, self._evaluation)

    @property
    def evaluation_source(self) -> onnx.ModelProto | None:
        """The original evaluation graph."""
        return self._evaluation

    @property
    def opset(self) -> int:
        """The opset of the training graph."""
        return imported_opsets(self._training)[""]

    def _flat(self, *, apart: bool = False) -> ir.Model:
        model = to_ir(self._training)
        FlattenStatePass(self._vectors(apart=apart), self.graph)(model)
        return model

    def _vectors(self, *, apart: bool) -> dict[str, VectorLayout]:
        return {name: layout for name, layout in self.groups.items() if not (apart and name == PARAMETERS)}


class OptimizerProgram:
    """The graph of an optimiser.

    Attributes:
        name: what messages call it.
        kind: the optimiser's name.
        slots: what it remembers of each parameter.
    """

    def __init__(self, source: Source) -> None:
        self.name = _name(source, "the optimizer model")
        self._model = read_model(source)
        text = next((each.value for each in self._model.metadata_props if each.key == OPTIMIZER), None)
        if text is None:
            raise OnnxCbpError(f"{self.name} {_what_it_is(self._model)}")
        about = json.loads(text)
        self.kind: str = about["kind"]
        self.slots: Sequence[str] = tuple(about["slots"])

    def model(self) -> ir.Model:
        """A copy of the graph; its inputs and outputs are named as they are in a graph of a whole step."""
        model = to_ir(self._model)
        for value in model.graph.inputs:
            value.name = own(value.name or "")
        for value in model.graph.outputs:
            value.name = following(own((value.name or "").removesuffix("_next")))
        return model

    @cached_property
    def elements(self) -> int:
        """How many elements its vectors have."""
        return int(self._model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)

    @property
    def opset(self) -> int:
        """The opset of the graph."""
        return imported_opsets(self._model)[""]

    def alone(self) -> onnx.ModelProto:
        """The graph by itself."""
        return to_proto(self.model(), self._model)

    @property
    def changed(self) -> list[str]:
        """The vectors that a step changes: the parameters and the slots."""
        return [PARAMETERS, *map(own, self.slots)]

    @cached_property
    def overwritten(self) -> list[str]:
        """Those of `changed` whose next values can be written over the present ones."""
        graph = self.model().graph
        return [name for name in self.changed if may_overwrite(graph, name, following(name))]

    @cached_property
    def cuts(self) -> Cuts | None:
        """Where to divide it into what needs whole vectors, and what goes through them in parts; None: nowhere."""
        if self.overwritten != self.changed:
            return None
        return find_cuts(self.model().graph, [*self.changed, GRADIENTS])

    def whole(self, names: Sequence[str]) -> onnx.ModelProto:
        """What computes these values of whole vectors."""
        model = self.model()
        take_whole(model, names)
        return to_proto(model, self._model)

    def part(self, cuts: Cuts) -> onnx.ModelProto:
        """What computes a part of the vectors, which it may write over."""
        model = self.model()
        take_part(model, cuts)
        return to_proto(model, self._model)


def _name(source: Source, otherwise: str) -> str:
    return otherwise if isinstance(source, onnx.ModelProto) else f"'{source!s}'"


def _what_it_is(model: onnx.ModelProto) -> str:
    if any(node.domain == "com.microsoft" for node in model.graph.node):
        return (
            "was made by ONNX Runtime's builder, which only its training build runs: generate it with "
            "onnx_cbp.training.generate_artifacts(..., builder='onnx_cbp')"
        )
    return (
        "is no training artifact of onnx-cbp: it does not say which of its inputs are parameters: generate it with "
        "onnx_cbp.training.generate_artifacts"
    )
