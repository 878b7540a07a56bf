"""A communicator of the user's own: four methods, no more."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp import distributed
from onnx_cbp.distributed import CommunicationError, Communicator
from support.replicas import reducing

NATIVE = pytest.param("native", marks=pytest.mark.native)
BACKENDS = pytest.mark.parametrize("backend", ["python", NATIVE])
VALUES = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([3.0, 4.0], np.float32)}


class Mirror(Communicator):
    """Two replicas, the other of which always says the same."""

    rank, size = 1, 2

    def __init__(self):
        self.calls = []
        self.closed = []

    def all_reduce(self, message):
        self.calls.append(("all_reduce", message.dtype, message.size))
        message *= 2

    def all_gather(self, message, gathered):
        self.calls.append(("all_gather", message.dtype, message.size))
        gathered[:] = message

    def split(self, partition):
        assert partition == ((0, 1),)
        return self

    def close(self, failed):
        self.closed.append(failed)


class Deaf(Mirror):
    """Fails in its second message."""

    def all_reduce(self, message):
        if any(name == "all_reduce" for name, *_ in self.calls):
            raise CommunicationError("the line\n is dead")
        super().all_reduce(message)


class Muddled(Mirror):
    """Brings the message of another collective."""

    def all_reduce(self, message):
        message += 1


@pytest.fixture(autouse=True)
def _finalized():
    yield
    distributed.finalize()


@BACKENDS
def test_it_serves_the_ops_and_each_step_costs_one_message(backend):
    mirror = Mirror()
    distributed.initialize(mirror)
    assert (distributed.rank(), distributed.world_size()) == (1, 2)
    run = reducing(backend=backend)
    for _ in range(3):
        c, d = run(**VALUES)
        np.testing.assert_array_equal(c, 2 * VALUES["a"])
        np.testing.assert_array_equal(d, 2 * VALUES["b"])
    # Once the replicas compare what they run; then it is one message of doubles a run: a header of 8 and the payload.
    compare, *messages = mirror.calls
    assert compare[0] == "all_gather"
    assert messages == [("all_reduce", np.float64, 8 + 4)] * 3
    distributed.finalize()
    assert not any(mirror.closed)


@BACKENDS
def test_its_errors_come_out_in_one_line(backend):
    deaf = Deaf()
    distributed.initialize(deaf)
    run = reducing(backend=backend)
    run(**VALUES)
    for _ in range(2):
        with pytest.raises(Exception, match=r"rank 1 of 2: AllReduce of layer 'bn1'.*the line is dead") as caught:
            run(**VALUES)
        assert "\n" not in str(caught.value).strip()
    distributed.finalize()
    assert all(deaf.closed)


@BACKENDS
def test_a_message_that_is_not_of_one_collective_is_never_taken(backend):
    distributed.initialize(Muddled())
    with pytest.raises(Exception, match="a communicator mixed them up"):
        reducing(backend=backend)(**VALUES)


def test_python_ops_serve_without_the_library(monkeypatch):
    from onnx_cbp.custom_ops import python_ops

    monkeypatch.setattr(python_ops, "find_library", lambda: None)
    mirror = Mirror()
    distributed.initialize(mirror)
    c, _ = reducing(backend="python")(**VALUES)
    np.testing.assert_array_equal(c, 2 * VALUES["a"])
    assert mirror.calls[-1] == ("all_reduce", np.float64, 8 + 4)
