"""Replicas that are threads of this program, and what a replica may and may not do."""

from __future__ import annotations

import threading
import time

import numpy as np
import onnxruntime as ort
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError, distributed
from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.distributed import CommunicationError, lifecycle
from support.replicas import reducing

NATIVE = pytest.param("native", marks=pytest.mark.native)
BACKENDS = pytest.mark.parametrize("backend", ["python", NATIVE])
VALUES = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([3.0, 4.0], np.float32)}


@pytest.fixture(autouse=True)
def _alone():
    yield
    distributed.finalize()
    assert not distributed.is_initialized()
    assert distributed.world_size() == 1


@BACKENDS
def test_without_a_communicator_a_session_is_a_single_replica(backend):
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    c, d = reducing(backend=backend)(**VALUES)
    np.testing.assert_array_equal(c, VALUES["a"])
    np.testing.assert_array_equal(d, VALUES["b"])


@BACKENDS
def test_one_session_serves_all_threads(backend):
    run = reducing(backend=backend)

    def replicate():
        return [run(**VALUES)[0].tolist() for _ in range(50)]

    assert distributed.run_replicas(replicate, 3) == [[[3.0, 6.0]] * 50] * 3


@BACKENDS
def test_after_finalize_a_session_is_a_single_replica_again(backend):
    run = reducing(backend=backend)
    for replicas in (2, 3):
        results = distributed.run_replicas(lambda: run(**VALUES)[0].tolist(), replicas)
        assert results == [[float(replicas), 2.0 * replicas]] * replicas
    np.testing.assert_array_equal(run(**VALUES)[0], VALUES["a"])


def test_run_replicas_tells_ranks_and_returns_results_by_rank():
    def replicate():
        return distributed.rank(), distributed.world_size()

    assert distributed.run_replicas(replicate, 4) == [(rank, 4) for rank in range(4)]


@BACKENDS
def test_what_one_thread_raises_ends_the_others_at_once(backend):
    ends = []

    def replicate():
        if distributed.rank() == 1:
            raise KeyError("no such data")
        try:
            reducing(backend=backend)(**VALUES)
        except Exception as error:
            ends.append(str(error))
            raise

    start = time.monotonic()
    with pytest.raises(KeyError, match="no such data"):
        distributed.run_replicas(replicate, 3, timeout=60)
    assert time.monotonic() - start < 10
    assert len(ends) == 2
    assert all("rank 1 failed: 'no such data'" in end for end in ends)


@BACKENDS
def test_a_thread_that_ends_without_a_word_is_noticed(backend):
    errors = {}

    def replicate(rank):
        distributed.initialize("threads", rank=rank, world_size=2, timeout=60)
        if rank == 1:
            return  # without finalize
        with pytest.raises(Exception, match=r"rank 0 of 2: AllReduce of layer 'bn1'.*: rank 1 died") as caught:
            reducing(backend=backend)(**VALUES)
        errors[rank] = str(caught.value)
        distributed.finalize()

    start = time.monotonic()
    _threads(replicate, 2)
    assert time.monotonic() - start < 10
    assert list(errors) == [0]


def test_a_replica_that_left_is_named():
    def replicate():
        if distributed.rank() == 1:
            distributed.finalize()
            return None
        with pytest.raises(Exception, match="rank 1 has left"):
            reducing(backend="auto")(**VALUES)
        return "told"

    assert distributed.run_replicas(replicate, 2, timeout=60) == ["told", None]


def test_threads_that_never_join():
    with pytest.raises(CommunicationError, match=r"rank 0 of 3: initialize: rank 1 did not come within 0.3 s, rank 2"):
        distributed.initialize("threads", rank=0, world_size=3, timeout=0.3)


def test_another_thread_is_no_replica():
    run = reducing(backend="auto")
    caught = []

    def replicate():
        if distributed.rank() == 0:
            # What a data loader's thread would do.
            def stranger():
                with pytest.raises(Exception, match=r"is no replica while others are: call .*initialize") as error:
                    run(**VALUES)
                caught.append(str(error.value))

            thread = threading.Thread(target=stranger)
            thread.start()
            thread.join()
        run(**VALUES)

    distributed.run_replicas(replicate, 2, timeout=20)
    assert len(caught) == 1


@BACKENDS
def test_the_parallel_execution_mode_is_refused(backend):
    def replicate():
        mode = ort.ExecutionMode.ORT_PARALLEL
        with pytest.raises(Exception, match="use execution_mode ORT_SEQUENTIAL") as caught:
            reducing(backend=backend, execution_mode=mode)(**VALUES)
        return str(caught.value)

    for message in distributed.run_replicas(replicate, 2, timeout=20):
        assert "AllReduce" in message
        assert "\n" not in message.strip()


@BACKENDS
def test_an_unknown_group_is_named(backend):
    def replicate():
        for group, reason in (
            ("pairs", "'world', 'size:K'"),
            ("size:3", "divides the 2 replicas"),
            ("size:x", "divides"),
        ):
            with pytest.raises(Exception, match=f"group '{group}'.*{reason}"):
                reducing(group=group, backend=backend)(**VALUES)

    distributed.run_replicas(replicate, 2, timeout=20)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"a": [[0]]}, "must hold each of the ranks 0 to 1 once"),
        ({"a": [[0, 1], [1]]}, "must hold each"),
        ({"a": [[0, 1, 2]]}, "must hold each"),
        ({"world": [[0, 1]]}, "the name 'world' is taken"),
        ({"size:9": [[0, 1]]}, "is taken"),
        ({"a": [0, 1]}, r"'a' is \[0, 1\]; it must be lists of ranks"),
        ({"a": None}, "'a' is None; it must be lists of ranks"),
        ({1: [[0, 1]]}, "it must be lists of ranks by name"),
        ([[0, 1]], "it must be lists of ranks by name"),
    ],
)
def test_wrong_groups(groups, reason):
    with pytest.raises(OnnxCbpError, match=reason):
        distributed.run_replicas(lambda: None, 2, timeout=20, groups=groups)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"engine": "smoke"}, "engine is 'smoke'; use one of 'mpi', 'torch', 'threads'"),
        ({"engine": None}, "needs an engine: 'mpi', 'torch', 'threads'; or set"),
        ({"engine": "threads", "rank": 2, "world_size": 2}, "rank is 2"),
        ({"engine": "threads", "rank": 0}, "world_size"),
        ({"engine": "threads", "rank": "0", "world_size": 1}, "rank is '0' and world_size is 1"),
        ({"engine": "threads", "rank": 0, "world_size": 1, "port": 5}, "port"),
        ({"engine": "threads", "rank": 0, "world_size": 1, "timeout": 0}, "timeout is 0; it must be a number"),
        ({"engine": "threads", "rank": 0, "world_size": 1, "timeout": "soon"}, "timeout is 'soon'"),
    ],
)
def test_wrong_arguments(arguments, reason):
    with pytest.raises(OnnxCbpError, match=reason) as caught:
        distributed.initialize(**arguments)
    assert "\n" not in str(caught.value)


def test_twice_is_refused():
    distributed.initialize("threads", rank=0, world_size=1)
    with pytest.raises(OnnxCbpError, match="finalize"):
        distributed.initialize("threads", rank=0, world_size=1)
    distributed.finalize()
    distributed.finalize()  # safe to call twice


def test_a_rank_is_taken_once():
    errors = []

    def replicate(i):
        try:
            distributed.initialize("threads", rank=0, world_size=2, timeout=1)
        except OnnxCbpError as error:
            errors.append(str(error))

    _threads(replicate, 2)
    assert any("rank 0 is taken" in error for error in errors)
    assert any("rank 1 did not come" in error for error in errors)


@pytest.mark.parametrize("world_size", ["2", 2.0, None, 0])
def test_a_wrong_number_of_replicas(world_size):
    with pytest.raises(OnnxCbpError, match=f"world_size is {world_size!r}; it must be a number"):
        distributed.run_replicas(lambda: None, world_size)


def test_who_asks_for_its_rank_joins_first(monkeypatch):
    """Once: after `finalize` a program may still ask whether it was the first."""

    def join():
        monkeypatch.delenv(lifecycle.ENGINE_VARIABLE)
        distributed.initialize("threads", rank=0, world_size=1)

    monkeypatch.setattr(lifecycle, "_has_joined", False)
    monkeypatch.setenv(lifecycle.ENGINE_VARIABLE, "smoke")
    for ask in (distributed.rank, distributed.world_size):
        with pytest.raises(OnnxCbpError, match="ONNX_CBP_COMMUNICATOR is 'smoke'"):
            ask()
    join()
    distributed.finalize()
    monkeypatch.setenv(lifecycle.ENGINE_VARIABLE, "smoke")
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_the_environment_variable_chooses_the_engine(monkeypatch):
    monkeypatch.setenv(lifecycle.ENGINE_VARIABLE, "smoke")
    with pytest.raises(OnnxCbpError, match="ONNX_CBP_COMMUNICATOR is 'smoke'"):
        onnx_cbp.register(ort.SessionOptions())  # which joins, where nobody has
    monkeypatch.setenv(lifecycle.ENGINE_VARIABLE, "threads")
    monkeypatch.setenv(lifecycle.TIMEOUT_VARIABLE, "never")
    with pytest.raises(OnnxCbpError, match="ONNX_CBP_TIMEOUT is 'never'"):
        distributed.initialize(rank=0, world_size=1)
    monkeypatch.setenv(lifecycle.TIMEOUT_VARIABLE, "0.2")
    with pytest.raises(CommunicationError, match=r"within 0.2 s"):
        distributed.initialize(rank=0, world_size=2)
    distributed.initialize(rank=0, world_size=1)
    onnx_cbp.register(ort.SessionOptions())


@pytest.mark.native
def test_replicas_with_and_without_the_library_work_together():
    def replicate():
        if distributed.rank() == 0:
            return reducing(backend="native")(**VALUES)[0].tolist()
        values = [VALUES["a"], VALUES["b"]]
        options = {"group": "world", "reduction": "sum", "layer": "bn1"}
        return OPERATORS["AllReduce"].evaluate_rounded(*values, **options)[0].tolist()

    assert distributed.run_replicas(replicate, 2, timeout=20) == [[2.0, 4.0]] * 2


def test_counts_that_a_message_cannot_carry_are_refused():
    from onnx import TensorProto

    from support.replicas import model, node, session

    number = TensorProto.FLOAT
    made = model(
        [node("AllGather", "m v n", "ms vs ns", group="world", layer="bn")],
        {"m": number, "v": number, "n": TensorProto.INT64},
        {"ns": TensorProto.INT64},
    )
    one = np.ones(1, np.float32)
    with pytest.raises(Exception, match=r"2\^53"):
        session(made, "auto")(m=one, v=one, n=np.array(2**53 + 1, np.int64))


def test_without_samples_what_is_sent_counts_for_nothing():
    run = reducing(backend="auto")

    def replicate():
        if distributed.rank() == 1:
            with distributed.without_samples():
                first = run(a=np.full(2, np.nan, np.float32), b=VALUES["b"])
        else:
            first = run(**VALUES)
        return [value.tolist() for value in (*first, *run(**VALUES))]

    once, twice = [VALUES[name].tolist() for name in "ab"], [(2 * VALUES[name]).tolist() for name in "ab"]
    assert distributed.run_replicas(replicate, 2, timeout=20) == [once + twice] * 2


def test_there_is_no_replica_without_samples_alone():
    with pytest.raises(OnnxCbpError, match="one of several replicas"), distributed.without_samples():
        pass


def _threads(function, count):
    threads = [threading.Thread(target=function, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
