"""What a value is made of."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def made_of(*values: ir.Value) -> Iterator[ir.Value]:
    """The values, and all that they are made of, each once; not what only subgraphs read."""
    seen, waiting = set(values), list(values)
    while waiting:
        value = waiting.pop()
        yield value
        producer = value.producer()
        for read in () if producer is None else producer.inputs:
            if read is not None and read not in seen:
                seen.add(read)
                waiting.append(read)
