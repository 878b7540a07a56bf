"""Whether two models give the same: tensors, sequences, optionals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplementedByRuntime

from support.ops import session

_LEVELS = ort.GraphOptimizationLevel


def assert_same_results(model: onnx.ModelProto, original: onnx.ModelProto, feeds: Mapping[str, Any]) -> None:
    """Both have the same outputs, by name and kind, and ONNX Runtime computes the same of both, optimised or not.

    What is right is what it computes of the original without optimisations. With them, older ones cannot load every
    model that holds an optional; what it cannot load of the original, it need not load of the model.
    """
    kinds = [[(v.name, v.type.WhichOneof("value")) for v in each.graph.output] for each in (model, original)]
    assert kinds[0] == kinds[1]
    want = session(original, None, graph_optimization_level=_LEVELS.ORT_DISABLE_ALL).run(None, dict(feeds))
    for level in (_LEVELS.ORT_DISABLE_ALL, _LEVELS.ORT_ENABLE_ALL):
        try:
            session(original, None, graph_optimization_level=level)
        except NotImplementedByRuntime:
            continue
        got = session(model, None, graph_optimization_level=level).run(None, dict(feeds))
        for value, one, other in zip(original.graph.output, got, want, strict=True):
            _assert_same(one, other, value.name)


def _assert_same(got: Any, want: Any, name: str) -> None:
    assert type(got) is type(want), name
    if isinstance(want, list):
        assert len(got) == len(want), name
        for one, other in zip(got, want, strict=True):
            _assert_same(one, other, name)
    elif want is not None:
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        atol = 1e-5 * max(1.0, float(np.abs(want.astype(np.float64)).max(initial=0)))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol, err_msg=name)
