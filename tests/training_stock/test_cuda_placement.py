"""What training graphs are made of has kernels for CUDA, as far as ONNX Runtime's own list tells: no GPU is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.training import generate_artifacts
from support.gpu.cuda_operators import MADE_OF_OTHERS, ON_CUDA
from support.gradients.gradient_cases import CASES, CONVOLUTIONS, In
from support.gradients.gradient_driver import forward_model, newest_opset, with_gradients

MODELS = Path(__file__).parents[2] / "models"
#: Of sizes alone, which lie in the processor's memory: ONNX Runtime runs what computes with them there on purpose.
OF_SIZES = {("INT64", "ReduceProd")}
#: Ops that CUDA has no kernel for: their gradients may need more of the kind.
WITHOUT = frozenset(
    ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "GlobalLpPool", "LpPool", "Sinh", "Tan")
)
OF_ONNX = [case for case in CASES if not case.domain and case.since <= newest_opset()]
#: The first case of each op, and every convolution: their gradients have many forms.
CHOSEN = list({each.op: each for each in reversed(OF_ONNX) if each.op != "Conv"}.values())
CHOSEN += [case for case in CONVOLUTIONS if case.op == "Conv"]


def kinds(model: onnx.ModelProto) -> dict[tuple[str, str], set[str]]:
    """The ops of a graph with the type of what they read first, and the names of their nodes."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = defaultdict(set)
    for node in graph.node:
        if node.domain != DOMAIN and node.input:
            kind = onnx.TensorProto.DataType.Name(types.get(next(filter(None, node.input)), 0))
            found[kind, node.op_type].add(node.name)
    return found


def without_kernel(found: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that CUDA has no kernel for."""
    return {
        (kind, op)
        for kind, op in found
        if kind in ON_CUDA and op not in ON_CUDA[kind] | MADE_OF_OTHERS and (kind, op) not in OF_SIZES
    }


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/forward.onnx")))
def test_every_node_of_a_sample_models_step_can_be_placed(name, tmp_path):
    arguments = {"loss": "CrossEntropyLoss", "optimizer": "AdamW", "builder": "onnx_cbp", "direct_convs": False}
    generate_artifacts(str(MODELS / name / "forward.onnx"), artifact_directory=tmp_path, **arguments)
    for file in ("training_model.onnx", "optimizer_model.onnx"):
        found = kinds(onnx.load(tmp_path / file))
        assert len(found) > 5
        assert not without_kernel(found)


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_rules_write_what_can_be_placed(case):
    """Of each op that CUDA has, the gradient is made of ops that it has as well."""
    forward = forward_model(case, case.since, np.float32)
    names = [f"x{index}" for index, each in enumerate(case.inputs) if isinstance(each, In) and each.gradient]
    before = {op for _, op in kinds(forward)}
    if before & WITHOUT:
        return
    written = {key for key in kinds(with_gradients(forward, case.seeded, names)) if key[1] not in before}
    assert not without_kernel(written)
