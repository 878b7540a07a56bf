"""ONNX Runtime's own checkpoint files, read without its training build.

The format is public: a FlatBuffers file with the identifier "ODTC", whose tables are described in ONNX Runtime's
onnxruntime/core/flatbuffers/schema/ort_training_checkpoint.fbs. The numbers below are the positions of fields there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from onnx_cbp.training.checkpoints.contents import Checkpoint, OptimizerState, Property
from onnx_cbp.training.checkpoints.flat_buffers import MalformedError, Table

IDENTIFIER = b"ODTC"
_VERSION, _MODULE, _OPTIMIZERS, _PROPERTIES = range(4)  # of Checkpoint
_TRAINED, _FROZEN, _IS_NOMINAL, _HAS_EXTERNAL_DATA = range(4)  # of ModuleState
_GROUP_NAME, _STEP, _INITIAL_LEARNING_RATE, _STATES = range(4)  # of OptimizerGroup
_PARAMETER, _MOMENTUMS = range(2)  # of ParameterOptimizerState
_NAME, _DOC, _DIMS, _TYPE, _RAW_DATA, _STRINGS, _EXTERNAL_OFFSET = range(7)  # of Tensor
_PROPERTY_NAME, _PROPERTY_VALUE = range(2)
#: The number of a type in the file, which is ONNX's.
_TYPES: dict[int, type] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
    14: np.complex64,
    15: np.complex128,
    16: ml_dtypes.bfloat16,
}


def is_ort_format(head: bytes) -> bool:
    """Whether a file that begins with these 8 bytes or more is one of ONNX Runtime's."""
    return head[4:8] == IDENTIFIER


def read(data: bytes, path: Path) -> Checkpoint:
    """A checkpoint from the bytes of a file.

    Args:
        data: the file's content.
        path: where it is: large tensors are in the file `<path>.data` beside it.

    Raises:
        MalformedError: the file is cut short, or is none of ONNX Runtime's.
        OSError: the data beside it cannot be read.
    """
    root = Table.root(memoryview(data))
    module = root.table(_MODULE)
    result = Checkpoint()
    if module is not None:
        result.nominal = bool(module.scalar(_IS_NOMINAL, "<?", False))
        external = b""
        if module.scalar(_HAS_EXTERNAL_DATA, "<?", False):
            external = path.with_name(f"{path.name}.data").read_bytes()
        for field in (_TRAINED, _FROZEN):
            tensors = dict(_tensor(table, external, result.nominal) for table in module.tables(field))
            result.parameters.update(tensors)
            if field == _TRAINED:
                result.trained = tuple(tensors)
    groups = list(root.tables(_OPTIMIZERS))
    if groups:
        result.optimizer = _optimizer(groups[0])  # ONNX Runtime itself has one group, "group0"
    properties = root.table(_PROPERTIES)
    if properties is not None:
        result.properties = _properties(properties)
    return result


def with_values(data: bytes, values: Mapping[str, np.ndarray]) -> bytes:
    """The same file with other values for some of its parameters: their types and shapes are the old ones.

    Raises:
        MalformedError: the file is none of ONNX Runtime's, or keeps the parameter's data in a file beside it.
    """
    changed = bytearray(data)
    module = Table.root(memoryview(changed)).table(_MODULE)
    for field in (_TRAINED, _FROZEN):
        for table in () if module is None else module.tables(field):
            name = table.text(_NAME)
            if name in values:
                raw = table.data(_RAW_DATA)
                if raw is None or len(raw) != values[name].nbytes:
                    raise MalformedError(f"the data of '{name}' is not in the file")
                raw[:] = values[name].tobytes()
    return bytes(changed)


def _tensor(table: Table, external: bytes, nominal: bool) -> tuple[str, np.ndarray]:
    name, shape = table.text(_NAME), table.numbers(_DIMS)
    number = int(table.scalar(_TYPE, "<i", 0))
    if number not in _TYPES:
        raise MalformedError(f"'{name}' has elements of type {number}, which no parameter has")
    if any(size < 0 for size in shape):
        raise MalformedError(f"'{name}' has the shape {list(shape)}")
    dtype = np.dtype(_TYPES[number])
    if nominal:
        return name, np.zeros(shape, dtype)
    raw: memoryview | bytes | None = table.data(_RAW_DATA)
    size = math.prod(shape) * dtype.itemsize
    if raw is None:
        offset = int(table.scalar(_EXTERNAL_OFFSET, "<q", -1))
        raw = external[offset : offset + size] if offset >= 0 else b""
    if len(raw) != size:
        raise MalformedError(f"'{name}' has {len(raw)} bytes, and {size} by its type and shape")
    return name, np.frombuffer(raw, dtype).reshape(shape).copy()


def _optimizer(group: Table) -> OptimizerState:
    slots: dict[str, dict[str, np.ndarray]] = {}
    for state in group.tables(_STATES):
        parameter = state.text(_PARAMETER)
        for momentum in state.tables(_MOMENTUMS):
            name, array = _tensor(momentum, b"", nominal=False)
            slots.setdefault(name, {})[parameter] = array
    return OptimizerState(int(group.scalar(_STEP, "<q", 0)), None, slots)


def _properties(bag: Table) -> dict[str, Property]:
    result: dict[str, Property] = {}
    for field, form in ((0, "<q"), (1, "<f")):
        for item in bag.tables(field):
            result[item.text(_PROPERTY_NAME)] = item.scalar(_PROPERTY_VALUE, form, 0)
    for item in bag.tables(2):
        result[item.text(_PROPERTY_NAME)] = item.text(_PROPERTY_VALUE)
    return result
