"""Making the ops known to an ONNX Runtime session."""

from __future__ import annotations

import weakref
from typing import Any

from onnx_cbp.custom_ops.library import find_library, get_library_path
from onnx_cbp.distributed import lifecycle
from onnx_cbp.errors import OnnxCbpError

_BACKENDS = ("auto", "native", "python")
# ONNX Runtime refuses one library twice on the same options, and only when the session is created.
_registered: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def register(session_options: Any, backend: str = "auto") -> None:
    """Register the ops of the domain `onnx_cbp` with an `onnxruntime.SessionOptions`. Safe to call twice.

    Args:
        session_options: options of the session (or of the training `Module`) that will run the model.
        backend: "native" is the C++ library, for every type. "python" is onnxruntime-extensions Python ops, for float
            and double: slow on full tensors, since each result passes through a Python list. "auto" is the library
            where this installation has one, Python ops otherwise.

    Where the environment variable ONNX_CBP_COMMUNICATOR names an engine and nothing was initialised yet, this joins the
    other replicas (docs/distributed.md).

    Raises:
        OnnxCbpError: an unknown backend, a library that is not there, or options that have the other backend already.
    """
    if backend not in _BACKENDS:
        raise OnnxCbpError(f"backend is {backend!r}; use one of {', '.join(map(repr, _BACKENDS))}")
    lifecycle.initialize_from_environment()
    if backend == "auto":
        backend = "native" if find_library() is not None else "python"
    earlier = _registered.get(session_options)
    if earlier == backend:
        return
    if earlier is not None:
        raise OnnxCbpError(
            f"these session options have the {earlier} ops already; use new SessionOptions for backend {backend!r}"
        )
    session_options.register_custom_ops_library(get_library_path() if backend == "native" else _python_library_path())
    _registered[session_options] = backend


def _python_library_path() -> str:
    import onnxruntime_extensions

    from onnx_cbp.custom_ops.python_ops import define_python_ops

    define_python_ops()
    return onnxruntime_extensions.get_library_path()
