"""Every engine: replicas that train as one, and what becomes of them when one does not play along."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp.custom_ops import OPERATORS
from support.engines import ENGINES, ONE_OF_PROCESSES, THREADS_SHOW, thoroughly
from support.replicas import BATCH_NORM_OUTPUTS, EPSILON, PATIENCE, SHORT, data, shard, start

NATIVE = pytest.param("native", marks=pytest.mark.native)
#: For each of the engines; for those that show what is our own code's; for threads, which show what is theirs too.
every_engine = pytest.mark.parametrize("engine", ENGINES)
one_of_processes = pytest.mark.parametrize("engine", ONE_OF_PROCESSES)
threads_show = pytest.mark.parametrize("engine", THREADS_SHOW)

#: Seconds beyond the time limit for a replica to notice and to ask who is missing.
GRACE = 8.0


def whole_batch() -> dict[str, np.ndarray]:
    """What one replica with the whole batch has, in float64."""
    values = data()
    channel = {"axis": 1}
    mean, var, count = OPERATORS["ChannelStats"].evaluate(values["X"], **channel, stash_type=1)
    statistics = [mean.astype(np.float32), var.astype(np.float32)]
    (Y,) = OPERATORS["ChannelNormalize"].evaluate(
        values["X"], values["scale"], values["B"], *statistics, **channel, epsilon=EPSILON
    )
    inv_std = (1 / np.sqrt(var + EPSILON)).astype(np.float32)
    scale_grad, bias_grad = OPERATORS["ChannelBackpropStats"].evaluate(
        values["X"], statistics[0], inv_std, values["dY"], **channel
    )
    gradients = [scale_grad.astype(np.float32), bias_grad.astype(np.float32)]
    (dX,) = OPERATORS["ChannelBackprop"].evaluate(
        values["dY"], values["X"], values["scale"], statistics[0], inv_std, *gradients, np.asarray(count), **channel
    )
    return dict(zip(BATCH_NORM_OUTPUTS, (Y, mean, var, scale_grad, bias_grad, dX, count), strict=True))


def assert_is_whole(outcomes: dict, parts: list[list[int]]) -> None:
    """Each group has the whole batch's results, every replica its shard of them, and statistics of the same bits."""
    want = whole_batch()
    for part in parts:
        for place, rank in enumerate(part):
            assert "result" in outcomes[rank], outcomes[rank]
            got = outcomes[rank]["result"]
            mine = shard(place, len(part)) if len(part) > 1 else slice(None)
            for name, value in want.items():
                expected = value[mine] if name in ("Y", "dX") else value
                actual = np.array(got[name]).reshape(expected.shape)
                np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5, err_msg=f"{name} of rank {rank}")
                if name not in ("Y", "dX"):
                    assert got[name] == outcomes[part[0]]["result"][name], name
            assert got["count"] == want["count"] == 13 * 4


@every_engine
@pytest.mark.parametrize("replicas", [thoroughly(pytest.param(2)), 3, thoroughly(pytest.param(4))])
def test_unequal_shards_are_one_batch(engine, replicas, tmp_path):
    outcomes = start(engine, "trains", replicas, tmp_path, backend="auto")
    assert sorted(outcomes) == list(range(replicas))
    assert_is_whole(outcomes, [list(range(replicas))])


@one_of_processes
def test_python_ops_reach_the_communicator(engine, tmp_path):
    assert_is_whole(start(engine, "trains", 3, tmp_path, backend="python"), [[0, 1, 2]])


@threads_show
def test_counts_are_exact(engine, tmp_path):
    outcomes = start(engine, "counts", 3, tmp_path, backend="auto")
    for rank in range(3):
        for kind, dtype in (("float32", np.float32), ("float64", np.float64)):
            means, counts = outcomes[rank]["result"][kind]
            assert counts == [2**53, 2**53 - 1, 2**53 - 2]
            assert means == [(np.array([1.0, 1 / 3]) + r).astype(dtype).tolist() for r in range(3)]


@threads_show
def test_buckets(engine, tmp_path):
    outcomes = start(engine, "buckets", 3, tmp_path, backend="auto")
    assert "result" in outcomes[0], outcomes[0]
    assert outcomes[0]["result"] == outcomes[1]["result"] == outcomes[2]["result"], "the same bits everywhere"
    assert len(outcomes[0]["result"]) == 12


@every_engine
def test_groups_of_consecutive_ranks(engine, tmp_path):
    parts = [[0, 1], [2, 3]]
    outcomes = start(engine, "trains", 4, tmp_path, backend="auto", group="size:2", parts=parts)
    assert_is_whole(outcomes, parts)


@one_of_processes
def test_named_groups(engine, tmp_path):
    parts = [[0, 2, 3], [1]]
    outcomes = start(engine, "trains", 4, tmp_path, backend="auto", group="odd", parts=parts, groups={"odd": parts})
    assert_is_whole(outcomes, parts)


def assert_all_end(outcomes: dict, ranks: list[int], *parts: str, within: float = SHORT + GRACE) -> None:
    """Each of the replicas ends in one line with these parts, and names itself, within the time."""
    for rank in ranks:
        error = outcomes[rank].get("error", "no error")
        assert f"rank {rank} of 3" in error
        for part in parts:
            assert part in error
        assert "\n" not in error.strip()
        assert outcomes[rank]["seconds"] < within


@every_engine
def test_a_replica_that_stalls(engine, tmp_path):
    outcomes = start(engine, "stalls", 3, tmp_path, backend="auto", timeout=SHORT)
    assert_all_end(outcomes, [0, 2], "AllReduce of layer 'bn1'")
    # gloo tells only rank 0 who is missing.
    for rank in (0,) if engine == "torch" else (0, 2):
        assert "rank 1" in outcomes[rank]["error"].split("AllReduce of layer")[-1]


@pytest.mark.thorough
@one_of_processes
def test_a_replica_that_never_joins(engine, tmp_path):
    if engine == "threads":
        pytest.skip("threads that never join are in test_threads.py")
    outcomes = start(engine, "stalls", 3, tmp_path, backend="auto", timeout=SHORT, absent=1)
    for rank in (0, 2):
        assert f"rank {rank}" in outcomes[rank]["error"]
        assert "initialize" in outcomes[rank]["error"]
        assert outcomes[rank]["seconds"] < SHORT + GRACE


@every_engine
def test_a_replica_that_dies(engine, tmp_path):
    timeout = PATIENCE if engine == "mpi" else SHORT
    outcomes = start(engine, "dies", 3, tmp_path, backend="auto", timeout=timeout)
    if engine == "mpi":
        # The launcher ends all processes, so there is nobody left to tell; what counts is that nothing hangs.
        assert not outcomes
    else:
        assert_all_end(outcomes, [0, 2], "AllReduce of layer 'bn1'")


@one_of_processes
@pytest.mark.parametrize("backend", ["python", NATIVE])
def test_a_layer_of_another_size_is_seen_before_its_first_message(engine, backend, tmp_path):
    outcomes = start(engine, "differs_at_first", 3, tmp_path, backend=backend)
    assert_all_end(outcomes, [0, 1, 2], "AllReduce of layer 'bn1'", "6 float64", "8 float64", "different collectives")
    assert "rank 1 runs" in outcomes[0]["error"]
    assert "rank 0 runs" in outcomes[1]["error"]


@one_of_processes
def test_a_replica_in_another_layer_is_seen_in_the_message(engine, tmp_path):
    outcomes = start(engine, "differs_later", 3, tmp_path, backend="auto")
    assert_all_end(outcomes, [0, 1, 2], "layer 'one'", "layer 'two'", "different collectives")


@threads_show
def test_a_replica_in_another_kind_of_collective(engine, tmp_path):
    outcomes = start(engine, "differs_in_kind", 3, tmp_path, backend="auto", timeout=SHORT)
    assert_all_end(outcomes, [0, 2], "AllReduce of layer 'bn1'")
    assert_all_end(outcomes, [1], "AllGather of layer 'bn1'")


@one_of_processes
def test_what_failed_once_has_failed_for_good(engine, tmp_path):
    outcomes = start(engine, "fails_for_good", 3, tmp_path, backend="auto")
    assert_all_end(outcomes, [0, 1, 2], "layer 'another'", "an earlier collective failed", "finalize()")
