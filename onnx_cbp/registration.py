"""`register`: makes our ops known to an ONNX Runtime session."""

from __future__ import annotations

import contextlib
from typing import Any

import onnx

from onnx_cbp.custom_ops.library import find_library, get_library_path, name_cuda_library
from onnx_cbp.distributed import lifecycle
from onnx_cbp.errors import OnnxCbpError

_BACKENDS = ("auto", "native", "python")
#: ONNX Runtime refuses to register a library twice with the same options, but only when the session is created. So the
#: options remember it; the library writes this too if it is registered without this module (ort/library.cc).
_REGISTERED = "onnx_cbp.registered"


def register(session_options: Any, backend: str = "auto") -> None:
    """Register the ops of the domain `onnx_cbp` with an `onnxruntime.SessionOptions`.

    Safe to call twice, and together with `session_options.register_custom_ops_library` and `get_library_path()`.

    Args:
        session_options: options of the session (or of the training `Module`) that will run the model.
        backend: "native" is the C++ library, for every type. "python" is onnxruntime-extensions Python ops, for float
            and double: slow on full tensors, since each result passes through a Python list. "auto" is the library
            where this installation has one, Python ops otherwise. Python ops bring all of onnxruntime-extensions
            along, Python ops of yours that are defined by then among it: do not register it for the same options.

    Where the environment variable ONNX_CBP_COMMUNICATOR names an engine and nothing was initialised yet, this joins the
    other replicas (docs/distributed.md).

    Raises:
        OnnxCbpError: an unknown backend, a library that is not there, or options that have the other backend
            or, for "python", onnxruntime-extensions already.
    """
    if backend not in _BACKENDS:
        raise OnnxCbpError(f"backend is {backend!r}; use one of {', '.join(map(repr, _BACKENDS))}")
    lifecycle.initialize_from_environment()
    if backend == "auto":
        backend = "native" if find_library() is not None else "python"
    earlier = _registered(session_options)
    if earlier == backend:
        return
    if earlier is not None:
        raise OnnxCbpError(
            f"these session options have the {earlier} ops already; use new SessionOptions for backend {backend!r}"
        )
    if backend == "native":
        name_cuda_library()
        session_options.register_custom_ops_library(get_library_path())
    else:
        from onnx_cbp.custom_ops.python_ops import python_library_path

        session_options.register_custom_ops_library(python_library_path())
        _refuse_twice(session_options)
    if _registered(session_options) is None:
        session_options.add_session_config_entry(_REGISTERED, backend)


def _registered(session_options: Any) -> str | None:
    """The backend whose ops are registered with the options."""
    with contextlib.suppress(Exception):  # ONNX Runtime can raise anything if there is no such entry
        return str(session_options.get_session_config_entry(_REGISTERED))
    return None


def _refuse_twice(session_options: Any) -> None:
    """Refuse options that already had onnxruntime-extensions: only making a session shows that."""
    if session_options.enable_profiling or session_options.optimized_model_filepath:
        return  # making a session would write files
    import onnxruntime

    try:
        onnxruntime.InferenceSession(_NOTHING, session_options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise OnnxCbpError(
            "backend 'python': these session options have onnxruntime-extensions already, which Python ops bring "
            "along: use new SessionOptions without it, or the native backend"
        ) from error


def _identity() -> bytes:
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "identity", value[:1], value[1:])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    return bytes(made.SerializeToString())


_NOTHING = _identity()
