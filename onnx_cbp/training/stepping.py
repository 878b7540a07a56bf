"""`step_model`: a whole training step as one graph with its state, for other languages."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.stepping.flatten_state import LAZY_RESET_GRAD, following
from onnx_cbp.training import checkpoints
from onnx_cbp.training.running.buffers import Device
from onnx_cbp.training.running.program import OptimizerProgram, Program
from onnx_cbp.training.running.training_session import LEARNING_RATE, TrainingState, initial_memory

#: Under this key the graph says where each tensor lies in its vectors.
METADATA = "onnx_cbp.layouts"


@dataclass(frozen=True)
class StepModel:
    """One step of training as a graph.

    Attributes:
        model: the graph. Its metadata has JSON under "onnx_cbp.layouts": by vector, and then by tensor, [first element,
            shape].
        data: its inputs for data and labels, in order.
        learning_rate: its input for the learning rate, float[1].
        lazy_reset_grad: its input, bool: true if the gradients should be those of this step alone.
        state: the first values of its other inputs.
        following: for each of these inputs that a step changes, the output to feed at the next step.
        outputs: its other outputs; the loss first.
        evaluation: the evaluation graph, which reads the same vectors by the same names and changes none; None if the
            folder has no such model.
    """

    model: onnx.ModelProto
    data: list[str]
    learning_rate: str
    lazy_reset_grad: str
    state: dict[str, np.ndarray]
    following: dict[str, str]
    outputs: list[str]
    evaluation: onnx.ModelProto | None = None


def step_model(artifacts: str | os.PathLike[str], prefix: str = "") -> StepModel:
    """Forward, backward and the optimiser's update in one graph, with the state as a few vectors.

    A program only feeds each step with the state that the step before returned. Artifacts that were generated with
    `rewrite_options={"portable": True}` run without our library, in a browser too. Sessions take several times less
    memory with `enable_mem_pattern = False` and `execution_order = ExecutionOrder.PRIORITY_BASED`.

    Args:
        artifacts: the folder that `generate_artifacts` wrote, with our builder and an optimiser.
        prefix: of the files' names.

    Raises:
        OnnxCbpError: one line: a file is not there, or does not come from our builder.
    """
    folder = Path(artifacts)
    evaluation = folder / f"{prefix}eval_model.onnx"
    program = Program(folder / f"{prefix}training_model.onnx", evaluation if evaluation.exists() else None)
    optimizer = OptimizerProgram(folder / f"{prefix}optimizer_model.onnx")
    if optimizer.opset != program.opset:
        raise OnnxCbpError(f"{program.name} and {optimizer.name} have different opsets: use those of one generation")
    checkpoint = checkpoints.load(folder / f"{prefix}checkpoint")
    kept = TrainingState(program, checkpoint, Device())
    buffers = kept.buffers | initial_memory(program, optimizer, checkpoint.optimizer, Device())
    model = program.step(optimizer)
    layouts = {
        name: {
            each: [start, list(shape)]
            for (each, shape), start in zip(layout.shapes.items(), np.cumsum([0, *layout.sizes]).tolist(), strict=False)
        }
        for name, layout in program.groups.items()
    }
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(layouts)
    made = {value.name for value in model.graph.output}
    return StepModel(
        model,
        data=[value.name or "" for value in program.inputs],
        learning_rate=LEARNING_RATE,
        lazy_reset_grad=LAZY_RESET_GRAD,
        state={name: buffer.read() for name, buffer in buffers.items()}
        | {name: np.array(value.numpy()) for name, value in kept.fixed.items()},
        following={name: following(name) for name in buffers if following(name) in made},
        outputs=program.outputs,
        evaluation=None if program.evaluation_source is None else program.evaluation(),
    )
