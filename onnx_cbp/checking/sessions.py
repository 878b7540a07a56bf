"""Runs a model once in ONNX Runtime, with errors that say what to do."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_cbp.checking.graphs import nodes
from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.custom_ops.library import find_library
from onnx_cbp.custom_ops.python_ops import raise_python_op_error
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.model_files.model_io import fits_one_message, save_model
from onnx_cbp.registration import register

_FATAL_ONLY = 4
_UNKNOWN_OP = re.compile(r"com\.microsoft[:.](\w+)\(-?\d+\) is not a registered function/op")


def run(
    what: str,
    source: onnx.ModelProto | str | os.PathLike[str],
    graph: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    *,
    as_written: bool,
    seed: int,
) -> dict[str, Any]:
    """Run a model once; afterwards, `feeds` has what it writes in place.

    Args:
        what: the name of the model in errors.
        source: the model or its path.
        graph: the model, with or without its external data.
        feeds: the inputs.
        as_written: without graph optimisations.
        seed: for ONNX Runtime's own random ops, such as Dropout.

    Returns:
        The outputs by name.

    Raises:
        OnnxCbpError: the model cannot be loaded or run, in one line.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY  # errors are also raised, and callers print them
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if _needs_our_ops(graph):
        register(options)
    try:
        ort.set_seed(seed)
        with _loadable(source) as loadable:
            session = _session(loadable, options, ["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    except OnnxCbpError:
        raise
    except Exception as error:  # the exceptions of ONNX Runtime have no common base
        raise OnnxCbpError(_explain(what, str(error), ort.__version__)) from error
    finally:
        raise_python_op_error()


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise OnnxCbpError(
            "ONNX Runtime is not installed: pip install onnxruntime, or onnxruntime-training-cpu==1.19.2 for its "
            "training artifacts"
        ) from None
    return onnxruntime


def _needs_our_ops(graph: onnx.ModelProto) -> bool:
    """Whether the model needs our library: if it has the bodies of our ops, the library is useful but not needed."""
    bodies = {(f.domain, f.name) for f in graph.functions}
    holders = [graph.graph.node, *(f.node for f in graph.functions)]
    used = {n.op_type for holder in holders for n in nodes(holder) if n.domain == DOMAIN}
    if all((DOMAIN, op_type) in bodies for op_type in used):
        return bool(used) and find_library() is not None
    return True


def _session(loadable: str | bytes, session_options: Any, providers: Sequence[Any]) -> Any:
    """Make an InferenceSession, avoiding bugs of older versions."""
    ort = _onnxruntime()
    _keep_sizes(session_options)
    # Below 1.19, this fusion makes an op from a Gemm and a Relu of doubles, for which there is no kernel.
    without = {"disabled_optimizers": ["GemmActivationFusion"]} if _is_old() else {}
    return ort.InferenceSession(loadable, session_options, providers=list(providers), **without)


def _keep_sizes(session_options: Any) -> None:
    """Keep the results of Shape readable in later runs: in older versions memory patterns let them be overwritten."""
    if _is_old():
        session_options.enable_mem_pattern = False


def _is_old() -> bool:
    return tuple(int(part) for part in _onnxruntime().__version__.split(".")[:2]) < (1, 19)


@contextmanager
def _loadable(source: onnx.ModelProto | str | os.PathLike[str]) -> Iterator[str | bytes]:
    """What an InferenceSession accepts: a path, or the bytes of a model that is small enough."""
    if not isinstance(source, onnx.ModelProto):
        yield os.fspath(source)
        return
    if fits_one_message(source):
        yield source.SerializeToString()
        return
    with tempfile.TemporaryDirectory() as folder:
        save_model(source, Path(folder) / "model.onnx")
        yield str(Path(folder) / "model.onnx")


def _explain(what: str, message: str, version: str) -> str:
    unknown = _UNKNOWN_OP.search(message)
    if unknown:
        return (
            f"{what} uses com.microsoft.{unknown[1]}, which onnxruntime {version} does not have: training artifacts "
            "need the training build: pip install onnxruntime-training-cpu==1.19.2 in an environment of its own"
        )
    return f"{what} cannot be run: {' '.join(message.split())}"
