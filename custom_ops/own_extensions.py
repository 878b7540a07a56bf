"""A copy of onnxruntime-extensions that has only our Python ops.

The library of onnxruntime-extensions keeps one list of Python ops per process, and gives all of them to every session
that registers it. With our ops in this list, a session with the native ops that also registers that library would get
each of our ops twice, and ONNX Runtime refuses such a session. For the operating system, a copy of the file is another
library, with its own list.
"""

from __future__ import annotations

import atexit
import builtins
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

#: Libraries made with pybind11 keep shared classes under this key; two classes with one name are refused.
_SHARED = "__pybind11_internals"

Body = Callable[..., Any]


class OwnExtensions:
    """The copy of the library.

    Attributes:
        path: the library that a session registers.
    """

    def __init__(self) -> None:
        """Copy the library, and load the copy.

        Raises:
            ImportError, OSError: this build of the library cannot be loaded twice.
        """
        import onnxruntime_extensions

        source = Path(onnxruntime_extensions.get_library_path())
        folder = tempfile.mkdtemp(prefix="onnx_cbp_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.path = str(shutil.copy(source, folder))
        name = source.name.partition(".")[0]
        space = vars(builtins)
        hidden = {key: space.pop(key) for key in list(space) if key.startswith(_SHARED)}
        try:
            loader = ExtensionFileLoader(name, self.path)
            spec = importlib.util.spec_from_loader(name, loader)
            assert spec is not None
            self._module: Any = importlib.util.module_from_spec(spec)
            loader.exec_module(self._module)
        finally:
            space.update(hidden)
        self._ops: dict[int, tuple[Any, Body]] = {}
        self._module.PyCustomOpDef.install_hooker(self._run)

    def add(
        self, op_type: str, inputs: Sequence[int], outputs: Sequence[int], attrs: Mapping[str, int], body: Body
    ) -> None:
        """Add a Python op; the arguments are those of onnxruntime_extensions.onnx_op."""
        op = self._module.PyCustomOpDef()
        op.op_type, op.obj_id = op_type, id(op)
        op.input_types, op.output_types, op.attrs = list(inputs), list(outputs), dict(attrs)
        self._ops[op.obj_id] = op, body  # must live as long as the library, which keeps a pointer to it
        self._module.add_custom_op(op)

    def _run(self, number: int, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
        """Run an op: the library passes its number, and wants the shape and the elements of each result."""
        op, body = self._ops[number]
        kinds = {self._module.PyCustomOpDef.dt_int64: int, self._module.PyCustomOpDef.dt_float: float}
        results = body(*inputs, **{name: kinds.get(op.attrs[name], str)(value) for name, value in attributes.items()})
        every = results if isinstance(results, tuple) else (results,)
        return (number, *(part for result in every for part in (result.shape, result.flatten().tolist())))
