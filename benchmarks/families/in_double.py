"""A training graph in float64, with PyTorch's kernels where onnx's reference takes long or rounds to float."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional

from onnx_cbp.custom_ops.references import OP_RUNS

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.gradients.exact_ops import EXACT_OPS
from support.gradients.in_double import widen

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
_MAX_POOLS = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


def in_double(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], decided: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """What the graph gives where every float is a double: its weights, what it is fed, and its constants.

    Args:
        model: a training graph; it may hold ops of ours.
        feeds: of float or double, and integers.
        decided: values between its nodes that are given, and not computed.

    Returns:
        The outputs by their names.
    """
    # ReferenceEvaluator takes the first class of an op.
    evaluator = ReferenceEvaluator(_given(_wide(model), decided or {}), new_ops=[*OP_RUNS, *_FAST, *EXACT_OPS])
    fed = {**feeds, **(decided or {})}
    wide = {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in fed.items()}
    return dict(zip(evaluator.output_names, map(np.asarray, evaluator.run(None, wide)), strict=True))


def _wide(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in double; an epsilon stays what its attribute says."""
    wide = widen(model)
    for node in wide.graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros of float
            zero = helper.make_tensor("value", onnx.TensorProto.DOUBLE, [1], [0])
            node.attribute.append(helper.make_attribute("value", zero))
        elif node.op_type == "Constant" and node.attribute[0].name in ("value_float", "value_floats"):
            given = helper.get_attribute_value(node.attribute[0])
            array = np.asarray(given, np.float64)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", onnx.numpy_helper.from_array(array)))
    return wide


def _given(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model, with values between its nodes as inputs."""
    for node in list(model.graph.node):
        for index, name in enumerate(node.output):
            if name in values:
                node.output[index] = f"{name}/not read"
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in values.items()}
    model.graph.input.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items())
    return model


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _padded(X: torch.Tensor, pads: Sequence[int] | None, value: float = 0.0) -> torch.Tensor:
    """With ONNX's pads: the beginnings of all axes, then the ends."""
    if not pads or not any(pads):
        return X
    rank = len(pads) // 2
    pairs = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[rank + axis])]
    return functional.pad(X, pairs, value=value)


class Conv(OpRun):
    """By PyTorch."""

    def _run(self, X: np.ndarray, W: np.ndarray, B: Any = None, **given: Any) -> tuple[np.ndarray]:
        assert given.get("auto_pad") in (None, "NOTSET"), "exporters of PyTorch write pads"
        rank = X.ndim - 2
        result = _CONVOLUTIONS[rank - 1](
            _padded(_tensor(X), given.get("pads")),
            _tensor(W),
            None if B is None else _tensor(B),
            stride=given.get("strides") or 1,
            dilation=given.get("dilations") or 1,
            groups=given.get("group") or 1,
        )
        return (result.numpy(),)


class ConvTranspose(OpRun):
    """By PyTorch; pads are cut off what it gives without."""

    def _run(self, X: np.ndarray, W: np.ndarray, B: Any = None, **given: Any) -> tuple[np.ndarray]:
        assert given.get("auto_pad") in (None, "NOTSET"), "exporters of PyTorch write pads"
        assert not given.get("output_shape"), "exporters of PyTorch write pads"
        rank = X.ndim - 2
        stride, dilation = given.get("strides") or [1] * rank, given.get("dilations") or [1] * rank
        whole = _TRANSPOSED[rank - 1](
            _tensor(X), _tensor(W), None, stride=stride, dilation=dilation, groups=given.get("group") or 1
        )
        pads, extra = given.get("pads") or [0] * 2 * rank, given.get("output_padding") or [0] * rank
        ends = [e - p for e, p in zip(extra, pads[rank:], strict=True)]
        cut = _padded(whole, [*(-p for p in pads[:rank]), *ends])
        return ((cut if B is None else cut + _tensor(B).reshape(-1, *[1] * rank)).numpy(),)


class MaxPool(OpRun):
    """By PyTorch; Indices count through the whole of X, as ONNX has it."""

    def _run(self, X: np.ndarray, **given: Any) -> tuple[np.ndarray, ...]:
        assert given.get("auto_pad") in (None, "NOTSET"), "exporters of PyTorch write pads"
        rank, kernel = X.ndim - 2, given["kernel_shape"]
        stride, dilation = given.get("strides") or [1] * rank, given.get("dilations") or [1] * rank
        pads = list(given.get("pads") or [0] * 2 * rank)
        if given.get("ceil_mode"):  # PyTorch's own rule, for its own padding
            assert pads[:rank] == pads[rank:], "PyTorch pads both sides alike"
            values, places = _MAX_POOLS[rank - 1](
                _tensor(X), kernel, stride, pads[:rank], dilation, ceil_mode=True, return_indices=True
            )
        else:
            # Padded by hand, with places that are looked up where the padding was.
            numbers = torch.arange(int(np.prod(X.shape[2:]))).reshape(1, 1, *X.shape[2:]).double()
            values, taken = _MAX_POOLS[rank - 1](
                _padded(_tensor(X), pads, -float("inf")), kernel, stride, 0, dilation, return_indices=True
            )
            places = _padded(numbers, pads, -1).reshape(-1)[taken].long()
        plane = int(np.prod(X.shape[2:]))
        first = (torch.arange(X.shape[0] * X.shape[1]) * plane).reshape(X.shape[0], X.shape[1], *[1] * rank)
        return (values.numpy(), (places + first).numpy())[: len(self.onnx_node.output)]


class Erf(OpRun):
    """By PyTorch."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (torch.erf(torch.as_tensor(x)).numpy(),)


class Gelu(OpRun):
    """By PyTorch."""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        return (functional.gelu(torch.as_tensor(x), approximate=approximate).numpy(),)


class ScatterElements(OpRun):
    """By numpy: onnx's own goes from element to element."""

    def _run(
        self, data: np.ndarray, indices: np.ndarray, updates: np.ndarray, axis: int = 0, reduction: str = "none"
    ) -> tuple[np.ndarray]:
        places = list(np.indices(indices.shape, sparse=True))
        places[axis % data.ndim] = indices
        result = data.copy()
        if reduction == "add":
            np.add.at(result, tuple(places), updates)
        else:
            assert reduction in (None, "none"), reduction
            result[tuple(places)] = updates
        return (result,)


class ScatterND(OpRun):
    """By numpy: onnx's own goes from element to element."""

    def _run(
        self, data: np.ndarray, indices: np.ndarray, updates: np.ndarray, reduction: str = "none"
    ) -> tuple[np.ndarray]:
        result = data.copy()
        places = tuple(np.moveaxis(indices, -1, 0))
        if reduction == "add":
            np.add.at(result, places, updates)
        else:
            assert reduction in (None, "none"), reduction
            result[places] = updates
        return (result,)


_FAST = [Conv, ConvTranspose, MaxPool, Erf, Gelu, ScatterElements, ScatterND]
