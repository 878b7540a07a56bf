"""A model that is compared: its name, and how it is run and read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_cbp.checking.sessions import run
from onnx_cbp.model_files.external_data import refuse_external_data
from onnx_cbp.model_files.model_io import load_model
from onnx_cbp.validity import check

ModelSource = onnx.ModelProto | str | os.PathLike[str]
#: Arrays by the names of graph outputs, and of inputs that were written in place.
Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A model under comparison.

    Attributes:
        what: its name in errors.
        source: the model or its path, for ONNX Runtime, which reads external data itself.
        graph: the model, with or without its external data.
    """

    what: str
    source: ModelSource
    graph: onnx.ModelProto

    @classmethod
    def read(cls, what: str, source: ModelSource) -> Model:
        """Read a model; without a file, it is called "the `what` model".

        Raises:
            OnnxCbpError: the file cannot be read, or the model is not valid ONNX.
        """
        if isinstance(source, onnx.ModelProto):
            refuse_external_data(source)
            check(source)
            return cls(f"the {what} model", source, source)
        graph = load_model(source, external_data=False)
        check(graph)
        return cls(f"'{os.fspath(source)}'", source, graph)

    def whole(self) -> onnx.ModelProto:
        """The model with its external data, which must not be changed."""
        return self.source if isinstance(self.source, onnx.ModelProto) else load_model(self.source)

    def copy(self) -> onnx.ModelProto:
        """The model with its external data, which may be changed."""
        if not isinstance(self.source, onnx.ModelProto):
            return load_model(self.source)
        copy = onnx.ModelProto()
        copy.CopyFrom(self.source)
        return copy

    def results(self, feeds: Mapping[str, np.ndarray], written: set[str], *, as_written: bool, seed: int) -> Results:
        """Run once: returns graph outputs, then the inputs in `written` after the run. The feeds do not change.

        Args:
            feeds: the inputs.
            written: the inputs that are written in place.
            as_written: without graph optimisations.
            seed: of ONNX Runtime's own random ops.

        Raises:
            OnnxCbpError: the model cannot be loaded or run.
        """
        own = {name: array.copy() for name, array in feeds.items()}
        outputs = run(self.what, self.source, self.graph, own, as_written=as_written, seed=seed)
        arrays = {name: np.asarray(value) for name, value in outputs.items()}
        return arrays | {name: own[name] for name in own if name in written}
