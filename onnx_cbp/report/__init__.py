"""A model's batch norms as one page that needs no network: `onnx-cbp inspect --html`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.ir_models import ModelSource
from onnx_cbp.model_files.files import Replacement
from onnx_cbp.report.document import collect
from onnx_cbp.report.page import page
from onnx_cbp.updating import Batch

__all__ = ["write_report"]


def write_report(
    model: ModelSource,
    path: str | os.PathLike[str],
    *,
    batches: Iterable[Batch] | None = None,
    checkpoint: Any = None,
    check: bool = True,
    name: str | None = None,
) -> None:
    """Write a page of a model's batch norms: a table, graphs before and after, statistics, and what `check` found.

    The page is one HTML file. It asks the network for nothing, and no name in the model can make it run anything.

    Args:
        model: a model or its path; it is not changed.
        path: the file to write, whole or not at all.
        batches: data, as for `update_bn`: the running statistics are compared with those of these batches.
        checkpoint: has parameters that the model does not have, as for `update_bn`.
        check: whether to run the model and its rewrite on random inputs, as `onnx-cbp check` does.
        name: what the page calls the model. None: the name of its file.

    Raises:
        OnnxCbpError: the model cannot be read or is not valid ONNX, the batches do not fit it, or the file cannot be
            written. Refusals of `rewrite` or `check` are shown on the page.
    """
    target = Replacement(path, "page")
    text = page(collect(model, batches, checkpoint, check, name))
    try:
        with target.scratch() as scratch:
            written = scratch / target.file.name
            written.write_text(text, encoding="utf-8")
            target.put(written)
    except OSError as error:
        raise OnnxCbpError(f"'{target.file}' cannot be written: {error.strerror or error}") from None
