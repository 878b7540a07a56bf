"""The ops in float64, as onnx `OpRun` classes for `onnx.reference.ReferenceEvaluator(model, new_ops=OP_RUNS)`."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnx_cbp.custom_ops.operator import DOMAIN, Operator
from onnx_cbp.custom_ops.ops import OPERATORS
from onnx_cbp.custom_ops.schemas import make_schema


def _op_run(operator: Operator) -> type[OpRun]:
    """An OpRun that evaluates in float64 and rounds once, to the output types of the op."""

    def _run(_self: OpRun, *inputs: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:
        # A one-element result of another op may arrive as a numpy scalar.
        return operator.evaluate_rounded(*(np.asarray(value) for value in inputs), **attributes)

    return type(
        operator.name,
        (OpRun,),
        {
            "op_domain": DOMAIN,
            "op_schema": make_schema(operator),
            "_run": _run,
            "__doc__": operator.doc,
        },
    )


#: One OpRun class per op.
OP_RUNS: list[type[OpRun]] = [_op_run(operator) for operator in OPERATORS.values()]
