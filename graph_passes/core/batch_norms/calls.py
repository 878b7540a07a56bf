"""Tells whether one module is called twice, or an exporter merged equal parameters of two layers."""

from __future__ import annotations

import onnx_ir as ir

#: How PyTorch and Keras name running statistics.
_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


def first_call(value: ir.Value) -> ir.Value:
    """The value of a running statistic before the first call of its module.

    PyTorch's default exporter gives each call of a module a copy of what the call before it reads, without a proper
    name. Its older exporter also writes copies, but of tensors that happened to be equal: a copy has the name of its
    own parameter (say "bn2.running_var", as a copy of "bn1.weight").
    """
    while (copy := value.producer()) is not None and (copy.domain, copy.op_type) == ("", "Identity"):
        copied = copy.inputs[0]
        if copied is None or is_parameter_name(value.name or ""):
            break
        value = copied
    return value


def is_parameter_name(name: str) -> bool:
    """Whether exporters give such a name to a parameter, and not to the result of a node."""
    return "." in name or name in _STATISTICS
