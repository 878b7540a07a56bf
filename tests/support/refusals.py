"""What verbs say that refuse a model; anything else than a result or one line, and soon, is an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

import onnx_cbp
from onnx_cbp.training import generate_artifacts

_MOST_SECONDS = 10


def every_verb(model: onnx.ModelProto, batch: Any, folder: Path) -> dict[str, Callable[[], object]]:
    """The verbs for a model, by name.

    Args:
        model: the model.
        batch: what `update_bn` is fed.
        folder: where artifacts go.
    """
    return {
        "inspect": lambda: onnx_cbp.inspect(model),
        "rewrite": lambda: onnx_cbp.rewrite(model),
        "train": lambda: onnx_cbp.rewrite(model, train="*"),
        "synchronize": lambda: onnx_cbp.rewrite(model, synchronize=True),
        "data_parallel": lambda: onnx_cbp.rewrite(model, data_parallel=True),
        "finalize": lambda: onnx_cbp.finalize(model, keep_batch_statistics=True),
        "update_bn": lambda: onnx_cbp.update_bn(model, [batch]),
        "artifacts": lambda: generate_artifacts(model, builder="onnx_cbp", artifact_directory=folder),
    }


def refusals(verbs: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    """The messages of the verbs that refuse, by name."""
    said = {}
    for name, verb in verbs.items():
        began = time.process_time()
        try:
            verb()
        except onnx_cbp.OnnxCbpError as error:
            said[name] = str(error)
        assert time.process_time() - began < _MOST_SECONDS
    assert not any("\n" in each for each in said.values())
    return said
