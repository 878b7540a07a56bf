"""The models of a step benchmark: a training graph and its rewritten form, with random inputs for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner

from onnx_cbp.bench.agreement import largest_difference
from onnx_cbp.checking.feeding.inputs import make_inputs
from onnx_cbp.checking.feeding.roles import find_roles
from onnx_cbp.checking.graphs import fed_inputs, nodes
from onnx_cbp.checking.sessions import run
from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.model_files.model_io import load_model, save_model
from onnx_cbp.registration import register
from onnx_cbp.rewriting import rewrite
from onnx_cbp.training import Artifacts, Trainer
from onnx_cbp.twin import in_standard_ops

#: By the bytes of the type. Rounding changes the first output of a deep network far less than this.
_TOLERANCES = {2: 5e-2, 4: 1e-3, 8: 1e-3}
_FATAL_ONLY = 4

#: Name and op type.
NodeKey = tuple[str, str]


@dataclass(frozen=True)
class Graph:
    """One of the two graphs.

    Attributes:
        path: its file.
        library: the op library that it needs, if any.
        batch_norms: the nodes that only this graph has. In the original these are batch norms, their gradients, and
            ReLUs that were folded; in the rewritten graph they are their replacements.
    """

    path: Path
    library: str | None
    batch_norms: tuple[NodeKey, ...]


@dataclass(frozen=True)
class BenchModel:
    """A training graph to measure.

    Attributes:
        name: the path that was given.
        step: what a step computes, in words.
        original, rewritten: the graphs.
        checkpoint, optimizer: the files of the training artifacts; None for a single graph.
        inputs: files of the inputs that a caller gives, in the graph's order.
        difference: between the two first outputs (for training artifacts, the loss), relative to the largest value.
        agrees: whether the difference is only rounding.
    """

    name: str
    step: str
    original: Graph
    rewritten: Graph
    checkpoint: Path | None
    optimizer: Path | None
    inputs: dict[str, Path]
    difference: float
    agrees: bool

    def task(self, graph: Graph, *, profile: Path | None = None, arena: bool = True) -> dict[str, Any]:
        """The task for a worker."""
        return {
            "model": str(graph.path),
            "library": graph.library,
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "optimizer": None if self.optimizer is None else str(self.optimizer),
            "inputs": {name: str(path) for name, path in self.inputs.items()},
            "profile": None if profile is None else str(profile),
            "arena": arena,
        }


def check_step_model(given: str) -> None:
    """Check that there is something to read.

    Raises:
        OnnxCbpError: one line: no such file, no training artifacts, no ONNX model.
    """
    load_model(given if not Path(given).is_dir() else _artifacts(given).training_model, external_data=False)


def prepare(given: str, folder: Path, library: str, batch: int, seed: int) -> BenchModel:
    """Rewrite a training graph, make inputs for it, and run both once.

    Args:
        given: a folder of ONNX Runtime training artifacts, or an .onnx file.
        folder: where to write both graphs and the inputs.
        library: the native op library.
        batch: the size of every symbolic dimension of the inputs.
        seed: of the random inputs.

    Raises:
        OnnxCbpError: one line: no artifacts or model, nothing to rewrite, or what ONNX Runtime cannot load or run.
    """
    artifacts = _artifacts(given) if Path(given).is_dir() else None
    source = _named_nodes(load_model(given if artifacts is None else artifacts.training_model))
    changed = rewrite(source)
    if any(node.domain == DOMAIN for node in nodes(source.graph.node)) and _keys(source) == _keys(changed):
        # It was made with our ops. Its loop would join the optimizer with the graph's session, so only the graph is
        # measured.
        source, artifacts = _named_nodes(in_standard_ops(source)), None
    before, after = _keys(source), _keys(changed)
    if before == after:
        raise OnnxCbpError(
            f"'{given}' has no batch norm that a rewrite replaces, so there are no two steps to compare: "
            "'onnx-cbp inspect' says why"
        )
    original = Graph(folder / "original.onnx", None, tuple(k for k in before if k not in after))
    rewritten = Graph(folder / "rewritten.onnx", library, tuple(k for k in after if k not in before))
    save_model(source, original.path)
    save_model(changed, rewritten.path)
    values = make_inputs(source, find_roles(source, batch), seed, batch)
    if artifacts is None:
        outputs = [_run_once(given, graph, source, values, seed) for graph in (original, rewritten)]
    else:
        values = _without_parameters(source, artifacts, values)
        outputs = [_step_once(artifacts, graph, values) for graph in (original, rewritten)]
    inputs = {}
    for index, (name, value) in enumerate(values.items()):
        inputs[name] = folder / f"input{index}.npy"
        np.save(inputs[name], value)
    difference = largest_difference({"first": outputs[0]}, {"first": outputs[1]})
    return BenchModel(
        name=str(Path(given)),
        step=_described(artifacts),
        original=original,
        rewritten=rewritten,
        checkpoint=None if artifacts is None else artifacts.checkpoint,
        optimizer=None if artifacts is None else artifacts.optimizer_model,
        inputs=inputs,
        difference=difference,
        agrees=difference <= _TOLERANCES.get(outputs[0].dtype.itemsize, 0.0),
    )


def _artifacts(given: str) -> Artifacts:
    found = Artifacts.in_folder(given)
    for file in (found.training_model, found.checkpoint):
        if not file.is_file():
            raise OnnxCbpError(
                f"'{given}' has no '{file.name}': name a folder that ONNX Runtime's generate_artifacts wrote, or a "
                "training graph's .onnx file"
            )
    optimizer = found.optimizer_model
    return Artifacts(
        found.training_model, found.checkpoint, optimizer if optimizer is not None and optimizer.is_file() else None
    )


def _described(artifacts: Artifacts | None) -> str:
    if artifacts is None:
        return "one run of the graph"
    return "forward and backward" if artifacts.optimizer_model is None else "forward, backward and optimizer"


def _named_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a unique name for every node, since a profile identifies nodes only by their names."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    taken = {""}
    for node in nodes(model.graph.node):
        name, number = node.name, 0
        while name in taken:
            name, number = f"{node.name or node.op_type}_{number}", number + 1
        node.name = name
        taken.add(name)
    return model


def _keys(model: onnx.ModelProto) -> dict[NodeKey, None]:
    # Constants are folded when a session is created, and take no time.
    return {(node.name, node.op_type): None for node in nodes(model.graph.node) if node.op_type != "Constant"}


def _run_once(
    given: str, graph: Graph, source: onnx.ModelProto, values: dict[str, np.ndarray], seed: int
) -> np.ndarray:
    """The first output of a single graph. What it writes in place is written into copies."""
    model = load_model(graph.path, external_data=False)
    copies = {name: value.copy() for name, value in values.items()}
    outputs = run(f"'{given}'", str(graph.path), model, copies, as_written=False, seed=seed)
    return np.asarray(outputs[source.graph.output[0].name])


def _step_once(artifacts: Artifacts, graph: Graph, values: dict[str, np.ndarray]) -> np.ndarray:
    """The loss of the first step."""
    trainer = _trainer(Artifacts(graph.path, artifacts.checkpoint, artifacts.optimizer_model), graph.library)
    return np.array(trainer.step(tuple(values.values())), np.float32)


def _without_parameters(
    source: onnx.ModelProto, artifacts: Artifacts, values: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The inputs that a training loop gives; the others come from the checkpoint and the training API."""
    parameters = {name for name, _ in _trainer(artifacts, None).state.parameters}
    return {
        value.name: values[value.name]
        for value in fed_inputs(source)
        if value.name not in parameters and not _of_the_api(value.name)
    }


def _of_the_api(name: str) -> bool:
    return name == "lazy_reset_grad" or name.endswith("_grad.accumulation.buffer")


def _trainer(artifacts: Artifacts, library: str | None) -> Trainer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if library is not None:
        register(options, "native")
    return Trainer.load(artifacts, options)
