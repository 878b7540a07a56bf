"""Our checkpoint files: safetensors, which any program reads.

Parameters have their own names. An optimiser's state for a parameter is "<parameter>::<slot>". Everything that is no
tensor is JSON in the file's metadata, under "onnx_cbp".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from onnx_cbp.training.checkpoints.contents import Checkpoint, OptimizerState
from onnx_cbp.training.checkpoints.flat_buffers import MalformedError

_KEY = "onnx_cbp"
_VERSION = 1
#: The types of the format by its names for them.
_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "U32": np.uint32,
    "I32": np.int32,
    "F32": np.float32,
    "U64": np.uint64,
    "I64": np.int64,
    "F64": np.float64,
}


def write(checkpoint: Checkpoint, file: Path) -> None:
    """Write a file, of whose content `read` makes the same checkpoint, bit for bit.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {} if checkpoint.nominal else dict(checkpoint.parameters)
    about: dict[str, Any] = {
        "version": _VERSION,
        # The tensors of a file are unordered; this is the order in which a module lists them.
        "parameters": [[name, str(a.dtype), list(a.shape)] for name, a in checkpoint.parameters.items()],
        "trained": list(checkpoint.trained),
        "nominal": checkpoint.nominal,
        "properties": checkpoint.properties,
        "random_state": checkpoint.random_state,
    }
    if checkpoint.optimizer is not None:
        optimizer = checkpoint.optimizer
        about["optimizer"] = {
            "kind": optimizer.kind,
            "step": optimizer.step,
            "learning_rate": optimizer.learning_rate,
            "slots": list(optimizer.slots),
        }
        for slot, arrays in optimizer.slots.items():
            tensors.update({_slot_name(name, slot): array for name, array in arrays.items()})
    # Contiguous in C order; numpy's own function for that would turn scalars into vectors.
    tensors = {name: array if array.flags.c_contiguous else array.copy(order="C") for name, array in tensors.items()}
    try:
        safetensors.numpy.save_file(tensors, file, {_KEY: json.dumps(about)})
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def read(data: bytes) -> Checkpoint:
    """A checkpoint from the content of a file.

    If another program wrote it, all parameters are frozen, since nothing says which of them train.

    Raises:
        MalformedError: the file is cut short, or is no safetensors file.
    """
    try:
        tensors = {name: _array(name, tensor) for name, tensor in safetensors.deserialize(data)}
    except safetensors.SafetensorError as error:
        raise MalformedError(str(error)) from None
    text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {}).get(_KEY)
    if text is None:
        return Checkpoint(dict(sorted(tensors.items())))
    try:
        return _from(json.loads(text), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedError(f"what it says of itself is not complete: {error!r}") from None


def _from(about: dict[str, Any], tensors: dict[str, np.ndarray]) -> Checkpoint:
    if about["version"] > _VERSION:
        raise MalformedError(f"it is of version {about['version']}, from a newer onnx-cbp than this one")
    optimizer = None
    if about.get("optimizer"):
        told = about["optimizer"]
        slots = {slot: {name: tensors[_slot_name(name, slot)] for name in about["trained"]} for slot in told["slots"]}
        optimizer = OptimizerState(told["step"], told["learning_rate"], slots, told["kind"])
    nominal = about["nominal"]
    return Checkpoint(
        parameters={
            name: np.zeros(shape, dtype) if nominal else tensors[name] for name, dtype, shape in about["parameters"]
        },
        trained=tuple(about["trained"]),
        nominal=nominal,
        optimizer=optimizer,
        properties=about["properties"],
        random_state=about["random_state"],
    )


def _slot_name(parameter: str, slot: str) -> str:
    return f"{parameter}::{slot}"


def _array(name: str, tensor: Any) -> np.ndarray:
    dtype = tensor["dtype"]
    if dtype not in _TYPES:
        raise MalformedError(f"'{name}' has elements of type {dtype}, which no parameter has")
    return np.frombuffer(tensor["data"], _TYPES[dtype]).reshape(tensor["shape"])
