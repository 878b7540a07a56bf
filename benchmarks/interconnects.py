"""The networks between machines that docs/internals/planning.md plans for: one was measured, the others are assumed."""

from __future__ import annotations

from alpha_beta import Interconnect

_US, _NS, _KIB = 1e-6, 1e-9, 1024
#: What an op adds to the engine's call (docs/distributed.md, Cost).
_CALL = 2.2 * _US
#: Adding a received vector to one's own, from memory; assumed.
_SUM = 0.1 * _NS
#: The part of a line's bits that is payload: TCP in Ethernet frames of 1500 bytes, RDMA with frames of 4096.
_TCP, _RDMA = 1448 / 1538, 0.97


def _line(gigabits: float, payload: float) -> float:
    """Seconds a byte."""
    return 8e-9 / (gigabits * payload)


#: `planning_check.py`, two processes: the median of five runs' fits. Of messages, 8064 bytes went at once there, 8192
#: did not.
SHARED_MEMORY = Interconnect("shared memory (measured)", 1.85 * _US, 0.162 * _NS, 0.0, 8100, 3.24 * _US, _CALL)

# A long message asks first: there and back again, two alpha.
INTERCONNECTS = [
    SHARED_MEMORY,
    Interconnect("10 Gb/s Ethernet, TCP", 30 * _US, _line(10, _TCP), _SUM, 64 * _KIB, 60 * _US, _CALL),
    Interconnect("25 Gb/s Ethernet, TCP", 25 * _US, _line(25, _TCP), _SUM, 64 * _KIB, 50 * _US, _CALL),
    Interconnect("100 Gb/s RoCE", 3 * _US, _line(100, _RDMA), _SUM, 16 * _KIB, 6 * _US, _CALL),
    Interconnect("200 Gb/s InfiniBand", 1.5 * _US, _line(200, _RDMA), _SUM, 16 * _KIB, 3 * _US, _CALL),
]
#: More replicas than this do not share one machine's memory.
LARGEST_MACHINE = 64
