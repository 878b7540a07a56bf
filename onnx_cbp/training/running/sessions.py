"""Sessions whose inputs and outputs are bound to the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import onnxruntime as ort

from onnx_cbp.checking.sessions import _explain, _loadable, _needs_our_ops, _session
from onnx_cbp.custom_ops.python_ops import raise_python_op_error
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.registration import register
from onnx_cbp.training.running.buffers import Buffer, Device


class BoundSession:
    """A session that reads and writes buffers.

    Args:
        name: what messages call the model.
        model: the model.
        options: of the session.
        providers: as `onnxruntime.InferenceSession` takes them.

    Raises:
        OnnxCbpError: the model does not load; one line.
    """

    def __init__(self, name: str, model: onnx.ModelProto, options: Any, providers: Sequence[Any]) -> None:
        self._name = name
        if _needs_our_ops(model):
            register(options)
        try:
            with _loadable(model) as loadable, _with_little_memory(options):
                self._session = _session(loadable, options, providers)
        except Exception as error:  # the exceptions of ONNX Runtime have no base of their own
            raise OnnxCbpError(_explain(name, str(error), ort.__version__)) from error
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._outputs = {value.name for value in self._session.get_outputs()}

    def run(
        self,
        fed: Mapping[str, Any],
        state: Mapping[str, Buffer],
        outputs: Sequence[str],
        device: Device,
        written: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Run once.

        Args:
            fed: OrtValues by input; those that the graph does not have are ignored.
            state: buffers by input: the present values are read, and the other ones written if the graph changes them.
            outputs: the outputs to return.
            device: where to put these.
            written: OrtValues by output, to be written.

        Raises:
            OnnxCbpError: the run fails; the present values of all buffers that are not written in place are as before.
        """
        binding = self._session.io_binding()
        for name, value in fed.items():
            if name in self._inputs:
                binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, device.kind, device.number)
        for name, buffer in state.items():
            if name in self._inputs:
                binding.bind_ortvalue_input(name, buffer.present)
            if f"{name}.next" in self._outputs:
                binding.bind_ortvalue_output(f"{name}.next", buffer.other)
        for name, value in (written or {}).items():
            binding.bind_ortvalue_output(name, value)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise OnnxCbpError(_explain(self._name, str(error), ort.__version__)) from error
        finally:
            raise_python_op_error()
        return list(binding.get_outputs()[: len(outputs)])


@contextmanager
def _with_little_memory(options: Any) -> Iterator[None]:
    """Make sessions that take as little memory as they can; afterwards the options are as before.

    By default ONNX Runtime

    - remembers what one run allocated, and allocates one block for all of it in the next run, while the blocks of the
      first still exist: this takes 2.5 to 5 times the memory, for the same speed within 3%;
    - goes from the outputs back to what they need. So a gradient of a weight, which no other node reads, is left for
      the end, and the arrays that it is made of are kept until then: 10 to 40% more memory. By priority it takes the
      nodes in the order of the graph, and differentiate puts each gradient behind what it is made of.
    """
    before = options.enable_mem_pattern, options.execution_order
    options.enable_mem_pattern, options.execution_order = False, ort.ExecutionOrder.PRIORITY_BASED
    try:
        yield
    finally:
        options.enable_mem_pattern, options.execution_order = before
