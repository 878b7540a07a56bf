"""Checkpoint files: ours, and ONNX Runtime's read without its training build."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from onnx_cbp import OnnxCbpError
from onnx_cbp.training import checkpoints
from onnx_cbp.training.checkpoints import Checkpoint, OptimizerState
from support.programs.elsewhere import ELSEWHERE
from support.training import MODELS

SAMPLES = sorted(path.parent.name for path in MODELS.glob("*/checkpoint"))
TYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_)


def _same(one: Checkpoint, other: Checkpoint) -> None:
    assert list(one.parameters) == list(other.parameters)
    for name, array in one.parameters.items():
        assert (other.parameters[name].dtype, other.parameters[name].shape) == (array.dtype, array.shape)
        assert other.parameters[name].tobytes() == array.tobytes()
    assert (one.trained, one.nominal, one.properties) == (other.trained, other.nominal, other.properties)
    assert one.random_state == other.random_state
    assert (one.optimizer is None) == (other.optimizer is None)
    if one.optimizer is not None and other.optimizer is not None:
        assert (one.optimizer.step, one.optimizer.kind) == (other.optimizer.step, other.optimizer.kind)
        assert one.optimizer.learning_rate == other.optimizer.learning_rate
        assert list(one.optimizer.slots) == list(other.optimizer.slots)
        for slot, arrays in one.optimizer.slots.items():
            assert {n: a.tobytes() for n, a in arrays.items()} == {
                n: a.tobytes() for n, a in other.optimizer.slots[slot].items()
            }


def _full(seed: int) -> Checkpoint:
    rng = np.random.default_rng(seed)
    parameters = {f"z.{t.__name__}": (rng.standard_normal((2, 3)) * 9).astype(t) for t in TYPES}
    parameters |= {"scalar": np.array(0.1, np.float32), "empty": np.zeros((0, 4), np.float32), "a/b:c": np.ones(1)}
    parameters["view"] = np.asfortranarray(rng.standard_normal((3, 4)).astype(np.float32))
    trained = ("z.float32", "scalar", "view")
    slots = {slot: {n: rng.standard_normal(parameters[n].shape).astype(np.float32) for n in trained} for slot in "mv"}
    optimizer = OptimizerState(7, 0.1 + 0.2, slots, "AdamW")
    properties = {"epoch": 3, "best": 0.1 + 0.2, "note": 'ü "quoted"', "nothing": float("inf")}
    return Checkpoint(parameters, trained, False, optimizer, properties, random_state=2**62 + 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_file_holds_every_bit(seed, tmp_path):
    want = _full(seed)
    checkpoints.save(want, tmp_path / "checkpoint")
    _same(want, checkpoints.load(tmp_path / "checkpoint"))


def test_a_nominal_one_holds_names_types_and_shapes(tmp_path):
    want = Checkpoint({"w": np.ones((2, 3), np.float32), "n": np.ones(4)}, ("w",), nominal=True)
    checkpoints.save(want, tmp_path / "nominal")
    got = checkpoints.load(tmp_path / "nominal")
    assert got.nominal
    assert {n: (a.dtype, a.shape) for n, a in got.parameters.items()} == {"w": ("float32", (2, 3)), "n": ("f8", (4,))}


def test_any_program_reads_the_parameters_by_their_names(tmp_path):
    want = Checkpoint({"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, ("conv.weight",))
    checkpoints.save(want, tmp_path / "checkpoint")
    got = safetensors.numpy.load_file(tmp_path / "checkpoint")
    assert list(got) == ["conv.weight"]
    np.testing.assert_array_equal(got["conv.weight"], want.parameters["conv.weight"])


def test_a_file_of_another_program_is_read(tmp_path):
    safetensors.numpy.save_file({"b": np.ones(2, np.float32), "a": np.zeros(3)}, tmp_path / "weights")
    got = checkpoints.load(tmp_path / "weights")
    assert list(got.parameters) == ["a", "b"]
    assert got.trained == ()


@pytest.mark.parametrize("name", SAMPLES)
def test_onnx_runtimes_files_are_read(name, tmp_path):
    got = checkpoints.load(MODELS / name / "checkpoint")
    assert got.optimizer is None
    running = [n for n in got.parameters if "running" in n]
    assert set(got.trained) == set(got.parameters) - set(running)
    for n in running:  # as a network starts
        assert np.all(got.parameters[n] == (0 if n.endswith("mean") else 1))
    checkpoints.save(got, tmp_path / "ours")
    _same(got, checkpoints.load(tmp_path / "ours"))


@pytest.mark.training
@pytest.mark.parametrize("with_optimizer", [True, False])
@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_read_is_what_onnx_runtime_reads(name, with_optimizer, tmp_path):
    from onnx_cbp.training import load_api

    api = load_api()
    state = api.CheckpointState.load_checkpoint(str(MODELS / name / "checkpoint"))
    module = api.Module(str(MODELS / name / "training_model.onnx"), state)
    optimizer = api.Optimizer(str(MODELS / name / "optimizer_model.onnx"), module)
    state.properties["epoch"], state.properties["best"], state.properties["note"] = 3, 0.25, "x"
    x = np.random.default_rng(1).standard_normal((4, *_input_shape(name))).astype(np.float32)
    for _ in range(3):
        module(x, np.zeros((4, 8, 8) if name == "unet_digits" else 4, np.int64))
        optimizer.step()
        module.lazy_reset_grad()
    path = tmp_path / "trained"
    api.CheckpointState.save_checkpoint(state, str(path), include_optimizer_state=with_optimizer)
    got = checkpoints.load(path)
    theirs = dict(state.parameters)
    assert set(got.parameters) == set(theirs)
    for n, parameter in theirs.items():
        np.testing.assert_array_equal(got.parameters[n], parameter.data)
    assert set(got.trained) == {n for n, p in theirs.items() if p.requires_grad}
    assert got.properties == {"epoch": 3, "best": 0.25, "note": "x"}
    assert (got.optimizer is not None) == with_optimizer
    if got.optimizer is not None:
        assert got.optimizer.step == 3
        assert sorted(got.optimizer.slots) == ["momentum0", "momentum1"]
        for arrays in got.optimizer.slots.values():
            assert {n: a.shape for n, a in arrays.items()} == {n: theirs[n].data.shape for n in got.trained}
            assert max(np.abs(a).max() for a in arrays.values()) > 0


def _input_shape(name: str) -> tuple[int, ...]:
    return (3, 37) if name == "conv1d_signals" else (1, 8, 8)


@pytest.mark.training
def test_values_written_into_onnx_runtimes_file_are_read_by_it(tmp_path):
    from onnx_cbp.training import load_api

    path = tmp_path / "checkpoint"
    path.write_bytes((MODELS / "resnet_digits" / "checkpoint").read_bytes())
    mean = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    before = dict(load_api().CheckpointState.load_checkpoint(str(path)).parameters)
    checkpoints.save_values(path, {"bn.running_mean": mean})
    after = load_api().CheckpointState.load_checkpoint(str(path))
    np.testing.assert_array_equal(after.parameters["bn.running_mean"].data, mean)
    for name, parameter in before.items():
        if name != "bn.running_mean":
            np.testing.assert_array_equal(after.parameters[name].data, parameter.data)


@pytest.mark.parametrize("kind", ["ours", "ONNX Runtime's"])
def test_a_file_that_is_cut_short_or_spoilt_is_one_line(kind, tmp_path):
    path = tmp_path / "checkpoint"
    data = (MODELS / "conv1d_signals" / "checkpoint").read_bytes()
    if kind == "ours":
        checkpoints.save(_full(2), path)
        data = path.read_bytes()
    seed = 5
    print("seed", seed)
    rng = random.Random(seed)
    spoilt = [data[:length] for length in range(0, len(data), max(1, len(data) // 60))]
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.randrange(8, min(len(data), 900))] ^= 1 << rng.randrange(8)
        spoilt.append(bytes(changed))
    refused = []
    for each in spoilt:
        path.write_bytes(each)
        try:
            checkpoints.load(path)  # what is spoilt may be a number, or a name
        except OnnxCbpError as error:
            refused.append(str(error))
    assert len(refused) > 60
    assert all(str(path) in line and "\n" not in line for line in refused)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none", "does not exist"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: _written(folder / "text", b"weights, to be sure"), "cannot be read as a checkpoint"),
        (lambda folder: _written(folder / "empty", b""), "cannot be read as a checkpoint"),
        (lambda folder: _newer(folder / "newer"), "newer onnx-cbp"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(make, said, tmp_path):
    with pytest.raises(OnnxCbpError, match=said) as caught:
        checkpoints.load(make(tmp_path))
    assert "\n" not in str(caught.value)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _newer(path: Path) -> Path:
    safetensors.numpy.save_file({}, path, {"onnx_cbp": '{"version": 2}'})
    return path


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OnnxCbpError, match="does not exist"):
        checkpoints.save(_full(0), tmp_path / "no" / "checkpoint")
    with pytest.raises(OnnxCbpError, match="is a folder"):
        checkpoints.save(_full(0), tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_killed_while_saving_the_file_is_an_old_one_or_a_new_one(tmp_path):
    path = tmp_path / "checkpoint"
    program = textwrap.dedent(f"""
        import itertools, numpy as np
        from onnx_cbp.training import checkpoints
        for n in itertools.count(1):
            values = np.full(250_000, n, np.float32)
            checkpoints.save(checkpoints.Checkpoint({{"w": values}}, ("w",), properties={{"n": n}}), {str(path)!r})
            print(n, flush=True)
    """)
    for seed in range(2):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ELSEWHERE)
        assert process.stdout is not None
        process.stdout.readline()  # it has saved once
        time.sleep(0.03 + 0.02 * seed)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        got = checkpoints.load(path)
        assert np.all(got.parameters["w"] == got.properties["n"])
