"""Tells a module that is called twice from two layers whose equal parameters an exporter merged."""

from __future__ import annotations

import onnx_ir as ir

#: What running statistics are called by PyTorch and by Keras.
_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


def first_call(value: ir.Value) -> ir.Value:
    """What a running statistic is before the first call of its module.

    PyTorch's default exporter gives each call of a module a copy of what the call before it reads, without a name to
    speak of. Its older one writes copies as well, of tensors that happened to be equal: these have the names of the
    parameters that they are ("bn2.running_var", of "bn1.weight", say).
    """
    while (copy := value.producer()) is not None and (copy.domain, copy.op_type) == ("", "Identity"):
        copied = copy.inputs[0]
        if copied is None or is_parameter_name(value.name or ""):
            break
        value = copied
    return value


def is_parameter_name(name: str) -> bool:
    """Whether a name is one that exporters give to a parameter, rather than to what a node makes."""
    return "." in name or name in _STATISTICS
