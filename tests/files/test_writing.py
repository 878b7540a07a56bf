"""A model file is written whole or not at all, whatever happens, and is as private as the one that it replaces."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from onnx_cbp.model_files import files, model_io
from onnx_cbp.model_files.model_io import load_model, save_model

ELEMENTS = 2000


def _model(value: float, elements: int = ELEMENTS) -> onnx.ModelProto:
    """y = x + w, with all of w the same: a mixture of two models is seen."""
    return _of_nodes(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [numpy_helper.from_array(np.full(elements, value, np.float32), "w")],
    )


def _of_nodes(nodes, initializers) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph(nodes, "model", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _results(path: Path, elements: int = ELEMENTS) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.zeros(elements, np.float32)})[0]


def _data(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".onnx")


@pytest.fixture
def limit(monkeypatch):
    """Models above 3,000 bytes count as those above 2 GiB."""
    monkeypatch.setattr(model_io, "_LARGEST_MESSAGE", 3000)


class TestLargeModels:
    @pytest.fixture(autouse=True)
    def _limited(self, limit, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_weights_go_to_a_file_of_their_own(self, tmp_path):
        model = _model(3)
        save_model(model, "model.onnx")
        (data,) = _data(tmp_path)
        assert data.startswith("model.onnx.")
        assert data.endswith(".data")
        assert Path(data).stat().st_size == 4 * ELEMENTS
        assert Path("model.onnx").stat().st_size < 1000
        assert (_results(tmp_path / "model.onnx") == 3).all()
        assert model == _model(3), "what is saved is not changed"
        assert numpy_helper.to_array(load_model("model.onnx").graph.initializer[0]).max() == 3

    def test_again_and_again_over_the_same_file(self, tmp_path):
        seen = set()
        for value in (1, 2, 3):
            save_model(_model(value), "model.onnx")
            assert (_results(tmp_path / "model.onnx") == value).all()
            (data,) = _data(tmp_path)
            assert data not in seen, "a name that no file had before"
            seen.add(data)
        save_model(onnx_cbp.rewrite("model.onnx"), "model.onnx")
        assert (_results(tmp_path / "model.onnx") == 3).all()
        assert len(_data(tmp_path)) == 1

    def test_by_command_in_the_current_folder(self, tmp_path):
        save_model(_model(3), "model.onnx")
        for _ in range(2):
            from click.testing import CliRunner

            from onnx_cbp.cli import cli

            for verb in ("rewrite", "finalize"):
                result = CliRunner().invoke(cli, [verb, "model.onnx", "-o", "model.onnx"])
                assert result.exit_code == 0, result.output
        assert (_results(tmp_path / "model.onnx") == 3).all()
        assert len(_data(tmp_path)) == 1

    def test_a_small_model_takes_the_place_of_a_large_one(self, tmp_path):
        save_model(_model(1), "model.onnx")
        save_model(_model(2, 10), "model.onnx")
        assert _data(tmp_path) == []
        assert (_results(tmp_path / "model.onnx", 10) == 2).all()

    @pytest.mark.parametrize("location", ["model.onnx.data", "model.onnx_data", "model.data"])
    def test_data_of_the_old_model_go(self, tmp_path, location):
        onnx.save(_model(1), "model.onnx", save_as_external_data=True, location=location, size_threshold=0)
        save_model(_model(2), "model.onnx")
        assert not Path(location).exists()
        assert (_results(tmp_path / "model.onnx") == 2).all()

    @pytest.mark.parametrize("location", ["weights.bin", "model.safetensors", "other.onnx.data"])
    def test_data_under_another_name_may_be_anybody_s(self, location):
        onnx.save(_model(1), "model.onnx", save_as_external_data=True, location=location, size_threshold=0)
        save_model(_model(2), "model.onnx")
        assert Path(location).stat().st_size == 4 * ELEMENTS

    @pytest.mark.parametrize("old", ["no model", "no data", "other data"])
    def test_a_file_that_the_old_model_does_not_name_stays(self, old):
        Path("model.onnx.data").write_text("mine")
        if old == "no model":
            Path("model.onnx").write_text("model.onnx.data")
        elif old == "no data":
            model = _model(1)
            model.doc_string = "see model.onnx.data"
            onnx.save(model, "model.onnx")
        else:
            onnx.save(_model(1), "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
        save_model(_model(2), "model.onnx")
        assert Path("model.onnx.data").read_text() == "mine"

    @pytest.mark.parametrize("copy", ["copy.onnx", "model.onnx.bak", "old"])
    @pytest.mark.parametrize("searched", [2**26, 10])
    def test_data_that_a_copy_of_the_old_model_names_stay(self, copy, searched, tmp_path, monkeypatch):
        monkeypatch.setattr(model_io, "_SEARCHED", searched)
        save_model(_model(1), "model.onnx")
        Path(copy).write_bytes(Path("model.onnx").read_bytes())
        save_model(_model(2), "model.onnx")
        assert (_results(tmp_path / copy) == 1).all()
        save_model(_model(3), copy)
        assert [(_results(tmp_path / name) == value).all() for name, value in (("model.onnx", 2), (copy, 3))]

    def test_a_large_file_that_is_no_model_keeps_no_data(self, tmp_path, monkeypatch):
        monkeypatch.setattr(model_io, "_SEARCHED", 10)
        save_model(_model(1), "model.onnx")
        (old,) = _data(tmp_path)
        Path("weights.bin").write_text(f"these are weights: {old}")
        save_model(_model(2), "model.onnx")
        assert old not in _data(tmp_path)

    def test_data_stay_if_a_file_cannot_be_read(self, tmp_path, monkeypatch):
        save_model(_model(1), "model.onnx")
        (old,) = _data(tmp_path)
        Path("secret").write_text("x")
        as_it_is = Path.open

        def refusing(path, *args, **options):
            if path.name == "secret":
                raise PermissionError(13, "Permission denied")
            return as_it_is(path, *args, **options)

        monkeypatch.setattr(Path, "open", refusing)
        save_model(_model(2), "model.onnx")
        assert old in _data(tmp_path)

    def test_numbers_that_are_no_raw_bytes(self, tmp_path):
        model = _model(0)
        model.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [ELEMENTS], [2.5] * ELEMENTS))
        save_model(model, "model.onnx")
        assert len(_data(tmp_path)) == 1
        assert (_results(tmp_path / "model.onnx") == 2.5).all()

    @pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.INT64])
    def test_numbers_of_any_type(self, kind):
        values = helper.make_tensor("w", kind, [ELEMENTS], [1, 2] * (ELEMENTS // 2))
        save_model(_of_nodes([helper.make_node("Cast", ["w"], ["y"], to=1)], [values]), "model.onnx")
        tensor = load_model("model.onnx").graph.initializer[0]
        assert tensor.data_type == kind
        # Not by onnx's numpy_helper: 1.17 reads garbage for bfloat16 under numpy 2.4.
        assert (ir.from_proto(tensor).numpy() == ir.from_proto(values).numpy()).all()

    def test_constants_of_nodes(self):
        """They stay in the model where it is small without the initializers, and go out where it is not."""
        weight, constant = (numpy_helper.from_array(np.full(n, 2, np.float32), "w") for n in (2000, 300))
        for size, inside in ((300, True), (2000, False)):
            constant = numpy_helper.from_array(np.full(size, 2, np.float32), "c")
            model = _of_nodes(
                [helper.make_node("Constant", [], ["c"], value=constant), helper.make_node("Add", ["c", "w"], ["y"])],
                [weight],
            )
            save_model(model, "model.onnx")
            kept = onnx.load("model.onnx", load_external_data=False).graph.node[0].attribute[0].t
            assert kept.HasField("raw_data") == inside
            loaded = load_model("model.onnx")
            assert (numpy_helper.to_array(loaded.graph.node[0].attribute[0].t) == 2).all()

    def test_more_than_a_message_outside_of_tensors(self, tmp_path, monkeypatch):
        def too_large(*_, **__):
            from google.protobuf.message import EncodeError

            raise EncodeError("Failed to serialize proto")

        monkeypatch.setattr(onnx, "save_model", too_large)
        with pytest.raises(onnx_cbp.OnnxCbpError, match="more than 2 GiB outside of its tensors"):
            save_model(_model(1), "model.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_the_second_renaming_fails(self, tmp_path, monkeypatch):
        save_model(_model(1), "model.onnx")
        before = sorted(tmp_path.iterdir())

        def full(self, target):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(onnx_cbp.OnnxCbpError, match="No space left on device"):
            save_model(_model(2), "model.onnx")
        assert sorted(tmp_path.iterdir()) == before
        assert (_results(tmp_path / "model.onnx") == 1).all()

    def test_two_writers(self, tmp_path):
        """The last to rename wins; nobody gets one's graph with the other's weights."""
        threads = [
            threading.Thread(target=lambda value=value: [save_model(_model(value), "model.onnx") for _ in range(8)])
            for value in (1, 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(_results(tmp_path / "model.onnx").tolist())) == 1


class TestModes:
    @pytest.fixture(params=[10**9, 3000], ids=["one file", "with data"])
    def largest(self, request):
        return request.param

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
    def test_of_a_file_that_is_replaced_stays(self, tmp_path, largest, mode):
        save_model(_model(1), tmp_path / "model.onnx")
        (tmp_path / "model.onnx").chmod(mode)
        save_model(_model(2), tmp_path / "model.onnx", largest=largest)
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}

    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
    def test_of_a_new_file_is_that_of_new_files(self, tmp_path, largest, umask):
        before = os.umask(umask)
        try:
            save_model(_model(1), tmp_path / "model.onnx", largest=largest)
        finally:
            os.umask(before)
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("largest", [10**9, 3000])
def test_a_disk_that_is_full(tmp_path, largest):
    """Stood for by a limit to the size of files."""
    save_model(_model(1), tmp_path / "model.onnx", largest=largest)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code = f"""
import resource
from onnx_cbp.model_files.model_io import save_model
from tests_of_writing import model
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
save_model(model(2), {str(tmp_path / "model.onnx")!r}, largest={largest})
"""
    process = _python(code)
    _, stderr = process.communicate(timeout=120)
    assert "OnnxCbpError" in stderr.splitlines()[-1]
    assert "cannot be written: File too large" in stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def _of_every_kind() -> onnx.ModelProto:
    """Large and small tensors, in raw data and in fields, in nodes and branches, and texts behind the graph."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(rng.normal(size=ELEMENTS))),
        helper.make_node("Add", ["x", "w"], ["s"]),
    ]
    inner = numpy_helper.from_array(rng.normal(size=ELEMENTS).astype(np.float32), "inner")
    branch = helper.make_graph(
        [helper.make_node("Add", ["s", "inner"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [None])],
        [inner],
    )
    nodes.append(helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch))
    tensors = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(rng.normal(size=ELEMENTS).astype(np.float32), "w"),
        numpy_helper.from_array(np.arange(3), "small"),
        helper.make_tensor("fields", TensorProto.FLOAT, [ELEMENTS], rng.normal(size=ELEMENTS)),
        helper.make_tensor("texts", TensorProto.STRING, [2], [b"a", b"b"]),
        numpy_helper.from_array(rng.normal(size=(2, ELEMENTS)).astype(np.float16), "half"),
    ]
    tensors[1].doc_string = "of the module"
    model = _of_nodes(nodes, tensors)
    model.graph.doc_string = model.doc_string = "told"
    model.metadata_props.add(key="k", value="v")
    return model


@pytest.mark.parametrize("from_bytes_on", [0, 10_000, 2**26])
def test_tensor_by_tensor_the_file_is_the_same_model(from_bytes_on, tmp_path, monkeypatch):
    model = _of_every_kind()
    monkeypatch.setattr(model_io, "_MUCH", from_bytes_on)
    save_model(model, tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx") == model
    assert model == _of_every_kind(), "what is saved is not changed"
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    assert _results(tmp_path / "model.onnx").shape == (ELEMENTS,)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells and forgets what a process had")
def test_a_model_is_not_laid_into_memory_once_more_to_be_written(tmp_path):
    """Of 96 MiB in 12 tensors: what a process has more while it writes is one of them."""
    code = f"""
import numpy as np
from onnx import numpy_helper
from onnx_cbp.model_files.model_io import save_model
tensors = [numpy_helper.from_array(np.full(2**21, index, np.float32), f"w{{index}}") for index in range(12)]
made = module._of_nodes([], tensors)
made.graph.node.add(op_type="Sum", input=[t.name for t in tensors], output=["y"])
del tensors
def told(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
open("/proc/self/clear_refs", "w").write("5")
before = told("VmRSS")
save_model(made, {str(tmp_path / "model.onnx")!r})
print(told("VmHWM") - before)
"""
    process = _python(code)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert float(stdout.split()[-1]) < 40
    assert (tmp_path / "model.onnx").stat().st_size > 96 * 2**20


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "user"])
def test_several_files_are_put_in_place_together(failing, error, links, tmp_path, monkeypatch):
    new, folder = tmp_path / "new", tmp_path / "folder"
    for each in (new, folder):
        each.mkdir()
        for name in ("a", "b", "c"):
            (each / name).write_text(f"{name} of {each.name}")
    (folder / "b").unlink()
    before = _content(folder)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError(1, "no links")))
    put = files.Replacement.put

    def fails(self, written):
        if written.name == "abc"[failing]:
            raise error
        put(self, written)

    with monkeypatch.context() as patched:
        patched.setattr(files.Replacement, "put", fails)
        scratch = tmp_path / "first"
        scratch.mkdir()
        kind = onnx_cbp.OnnxCbpError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(kind, match="cannot be written: No space" if isinstance(error, OSError) else None):
            files.put_all([new / name for name in "abc"], folder, scratch)
    assert _content(folder) == before
    for name in "abc":
        (new / name).write_text(f"{name} of new")
    scratch = tmp_path / "second"
    scratch.mkdir()
    files.put_all([new / name for name in "abc"], folder, scratch)
    assert _content(folder) == {name: f"{name} of new".encode() for name in "abc"}


@pytest.mark.parametrize("largest", [10**9, 3000])
def test_what_is_named_is_on_the_disk_before(tmp_path, largest, monkeypatch):
    """Without power, names may come to be before data do: each file is synchronised, then named, then its folder is."""
    done = []

    def renames(moves):
        return lambda source, target: (done.append(("named", Path(source).name)), moves(source, target))[1]

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, renames(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", lambda of: done.append(("synced", Path(f"/proc/self/fd/{of}").readlink().name)))
    save_model(_model(1), tmp_path / "model.onnx", largest=largest)
    files = [name for what, name in done if what == "named"]
    assert len(files) == (1 if largest > 3000 else 2)
    assert all(done.index(("synced", name)) < done.index(("named", name)) for name in files)
    assert done[-1] == ("synced", tmp_path.name)


def test_a_folder_in_the_place_of_a_file_changes_no_other(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("as it was")
    for name in "ab":
        (tmp_path / "scratch" / name).write_text("new")
    with pytest.raises(onnx_cbp.OnnxCbpError, match=r"'.*b' is a folder"):
        files.put_all([tmp_path / "scratch" / name for name in "ab"], tmp_path, tmp_path / "scratch")
    assert (tmp_path / "a").read_text() == "as it was"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(onnx_cbp.OnnxCbpError, match="cannot be written: Permission denied"):
            save_model(_model(1), tmp_path / "model.onnx")
    finally:
        tmp_path.chmod(0o755)


def _python(code: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """A process of its own, which knows this file's models."""
    prelude = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tests_of_writing", {__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.model = module._model
sys.modules["tests_of_writing"] = module
"""
    command = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-c", prelude + code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


@pytest.mark.parametrize("largest", [10**9, 3000])
def test_a_kill_at_any_moment(tmp_path, largest):
    """There is the old model or the new one, whole."""
    elements, path = 200_000, tmp_path / "model.onnx"
    save_model(_model(0, elements), path, largest=largest)
    seed = time.time_ns() % 2**32
    print("seed", seed)
    moments = random.Random(seed)
    code = f"""
from onnx_cbp.model_files.model_io import save_model
from tests_of_writing import model
models = [model(value, {elements}) for value in (1, 2)]
print("ready", flush=True)
while True:
    for each in models:
        save_model(each, {str(path)!r}, largest={largest})
"""
    values = set()
    for _ in range(2):
        process = _python(code)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        (value,) = set(numpy_helper.to_array(load_model(path).graph.initializer[0]).tolist())
        values.add(value)
    assert values <= {0, 1, 2}


def test_memory(tmp_path):
    """Twice the model and a tensor: reading, rewriting, finalizing and writing make no other copy of it."""
    tensors, rows = 8, 2**11
    mebibytes = tensors * rows * 4096 / 2**20
    nodes, weights, x = [], [], "x"
    for number in range(tensors):
        weights.append(numpy_helper.from_array(np.full((rows, 1024), number + 1, np.float32), f"w{number}"))
        nodes.append(helper.make_node("Gather", [f"w{number}", "i"], [f"g{number}"]))
        nodes.append(helper.make_node("ReduceMax", [f"g{number}"], [f"m{number}"], keepdims=0))
        y = "y" if number == tensors - 1 else f"y{number}"
        nodes.append(helper.make_node("Add", [x, f"m{number}"], [y]))
        x = y
    model = _of_nodes(nodes, [*weights, numpy_helper.from_array(np.int64([0]), "i")])
    save_model(model, tmp_path / "model.onnx", largest=10**6)
    code = """
from pathlib import Path
from onnx_cbp.model_files import model_io
from onnx_cbp.cli import cli
model_io._LARGEST_MESSAGE, model_io._MANY = 10**6, 10**6
def peak():
    # ru_maxrss begins with the size of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
import onnx_cbp.finalizing, onnx_cbp.cli.findings, onnx_cbp.cli.text
before = peak()
for verb in ("rewrite", "finalize"):
    cli([verb, "model.onnx", "-o", verb + ".onnx"], standalone_mode=False)
    print("peak", peak() - before)
"""
    process = _python(code, cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    peaks = [float(line.split()[1]) for line in stdout.splitlines() if line.startswith("peak ")]
    assert len(peaks) == 2
    assert max(peaks) < 2.5 * mebibytes, peaks
    for verb in ("rewrite", "finalize"):
        assert _results(tmp_path / f"{verb}.onnx", 1) == sum(range(1, tensors + 1))
