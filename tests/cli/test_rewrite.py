"""`onnx-cbp rewrite`: the file that it writes, also over the model itself."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_cbp
import onnx_cbp.rewriting
from support.models import op_types, parse
from support.training import MODELS


def test_writes_what_the_library_makes(run, forward, tmp_path):
    out = tmp_path / "out.onnx"
    result = run("rewrite", forward, "-o", out)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "1 batch norm node: 1 rewritten, 0 left alone" in result.stdout
    assert result.stdout.splitlines()[-1] == f"wrote {out}"
    assert onnx.load(out) == onnx_cbp.rewrite(forward)
    assert op_types(onnx.load(out)) == ["BatchNormTrainUpdate"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["forward.onnx", "out.onnx"]


def test_out_may_be_the_model(run, forward):
    expected = onnx_cbp.rewrite(forward)
    assert run("rewrite", forward, "-o", forward).exit_code == 0
    assert onnx.load(forward) == expected


def test_a_second_rewrite_changes_nothing(run, forward, tmp_path):
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    run("rewrite", forward, "-o", once)
    result = run("rewrite", once, "-o", twice)
    assert result.exit_code == 0
    assert "rewritten already" in result.stdout
    assert f"nothing to rewrite: wrote {twice}, which is {once} unchanged" in result.stdout
    assert once.read_bytes() == twice.read_bytes()


def test_another_momentum_of_what_is_rewritten_is_a_change(run, forward, tmp_path):
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    run("rewrite", forward, "-o", once)
    result = run("rewrite", once, "-o", twice, "--momentum", 0.5)
    assert result.stdout.splitlines()[-1] == f"wrote {twice}"
    assert once.read_bytes() != twice.read_bytes()


def test_nothing_to_rewrite(run, plain, tmp_path):
    out = tmp_path / "out.onnx"
    result = run("rewrite", plain, "-o", out)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "nothing to rewrite" in result.stdout
    assert onnx.load(out) == onnx.load(plain)


def test_portable(run, forward, tmp_path):
    out = tmp_path / "out.onnx"
    result = run("rewrite", forward, "-o", out, "--portable", "--no-one-pass")
    functions = {f.name for f in onnx.load(out).functions}
    assert functions == {"ChannelStats", "ChannelNormalize", "RunningStats"}
    assert "with 3 function bodies attached" in result.stdout


def test_what_is_left_alone_says_why(run, tmp_path):
    model = parse("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[N, 3, 4] y)
        { y = BatchNormalization (x, s, b, m, v) }
    """)
    onnx.save(model, tmp_path / "frozen.onnx")
    result = run("rewrite", tmp_path / "frozen.onnx", "-o", tmp_path / "out.onnx")
    assert result.exit_code == 0
    assert "so it is frozen" in result.stdout


def test_external_data(run, tmp_path, forward):
    model = onnx.load(forward)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([1, 2, 3]), "gamma"))
    del model.graph.input[1]
    onnx.save_model(
        model,
        str(tmp_path / "big.onnx"),
        save_as_external_data=True,
        location="big.data",
        size_threshold=0,
        convert_attribute=False,
    )
    assert (tmp_path / "big.data").stat().st_size
    out = tmp_path / "elsewhere" / "out.onnx"
    out.parent.mkdir()
    assert run("rewrite", tmp_path / "big.onnx", "-o", out).exit_code == 0
    assert run("check", tmp_path / "big.onnx", out).exit_code == 0
    (tmp_path / "big.data").unlink()
    result = run("rewrite", tmp_path / "big.onnx", "-o", out)
    assert result.exit_code == 2
    assert "external data cannot be read" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_models_too_large_for_one_message(run, forward, tmp_path, monkeypatch):
    monkeypatch.setattr("onnx_cbp.model_files.model_io._LARGEST_MESSAGE", 10)
    model = onnx.load(forward)
    model.graph.initializer.append(onnx.numpy_helper.from_array(*_large("beta")))
    model.graph.input.remove(model.graph.input[2])
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2000
    for value in (*model.graph.input[1:], *model.graph.output[1:]):
        value.type.tensor_type.shape.dim[0].dim_value = 2000
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2000
    onnx.save(model, forward)
    out = tmp_path / "out.onnx"
    assert run("rewrite", forward, "-o", out).exit_code == 0
    (data,) = tmp_path.glob("out.onnx.*.data")
    assert data.stat().st_size == 8000
    assert data.stat().st_mode == out.stat().st_mode
    assert run("check", forward, out).exit_code == 0


def _large(name):
    return np.linspace(-1, 1, 2000, dtype=np.float32), name


def test_a_link_stays_a_link(run, forward, tmp_path):
    target, link = tmp_path / "target.onnx", tmp_path / "link.onnx"
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert run("rewrite", forward, "-o", link).exit_code == 0
    assert link.is_symlink()
    assert onnx.load(target) == onnx_cbp.rewrite(forward)


def test_shows_what_inspect_shows_with_one_analysis(run, forward, tmp_path, monkeypatch):
    model = onnx.load(forward)
    model.graph.node.insert(
        0, onnx.helper.make_node("Neg", ["x"], ["minus"])
    )  # of a shape that the model does not state
    model.graph.node[1].input[0] = "minus"
    onnx.save(model, forward)
    (row,) = (line for line in run("inspect", forward).stdout.splitlines() if "[N,3,H,W]" in line)
    read = []
    to_ir = onnx_cbp.rewriting.to_ir
    monkeypatch.setattr(onnx_cbp.rewriting, "to_ir", lambda model: read.append(model) or to_ir(model))
    shown = run("rewrite", forward, "-o", tmp_path / "out.onnx").stdout.splitlines()
    assert row.split() in [line.split() for line in shown]  # another heading may take more room
    assert len(read) == 1
    assert "minus" not in {value.name for value in onnx.load(tmp_path / "out.onnx").graph.value_info}


@pytest.mark.parametrize("option", ["--synchronize", "--data-parallel"])
def test_options_reach_the_library(run, forward, tmp_path, monkeypatch, option):
    asked = {}

    def rewrite(model, **options):
        asked.update(options)
        return model

    monkeypatch.setattr(onnx_cbp, "rewrite", rewrite)
    run("rewrite", forward, "-o", tmp_path / "out.onnx", option)
    name = option.strip("-").replace("-", "_")
    assert [key for key, value in asked.items() if value is True] == ["one_pass", "fold_relu", "recompute_relu", name]


RESNET = MODELS / "resnet_digits" / "training_model.onnx"


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--synchronize"], {"synchronize": True}),
        (["--synchronize", "world"], {"synchronize": True}),
        (["--synchronize", "size:4"], {"synchronize": "size:4"}),
        (["--synchronize=teams"], {"synchronize": "teams"}),
        (
            ["--synchronize-layers", "*bn1*", "--synchronize-layers", "/bn/*"],
            {"synchronize": {"*bn1*": "world", "/bn/*": "world"}},
        ),
        (["--synchronize=size:2", "--synchronize-layers", "*5*"], {"synchronize": {"*5*": "size:2"}}),
        (["--data-parallel"], {"data_parallel": True}),
        (["--data-parallel", "--bucket-cap-mb", "0.1"], {"data_parallel": True, "bucket_cap_mb": 0.1}),
    ],
)
def test_replicas(run, tmp_path, options, asked):
    out = tmp_path / "out.onnx"
    for arguments in ([*options, RESNET, "-o", out], [RESNET, "-o", out, *options]):  # MODEL is no group
        result = run("rewrite", *arguments)
        assert result.exit_code == 0, result.stderr
        assert onnx.load(out) == onnx_cbp.rewrite(RESNET, **asked)


def test_the_collectives_are_counted(run, tmp_path):
    out = tmp_path / "out.onnx"
    result = run("rewrite", RESNET, "-o", out, "--synchronize", "--data-parallel")
    assert "each replica takes part in 15 AllGather, 15 AllReduce, 2 AllReduceBucket a step" in result.stdout
    again = run("rewrite", out, "-o", out, "--synchronize", "--data-parallel")
    assert "nothing to rewrite" in again.stdout


def test_a_network_without_batch_norms_is_made_data_parallel(run, tmp_path):
    model = onnx.load(RESNET)
    source = tmp_path / "in.onnx"
    for node in model.graph.node:
        if node.op_type == "BatchNormInternal":
            node.attribute[2].i = 0
            del node.output[1:]
        elif node.op_type == "BatchNormalizationGrad":
            node.op_type = "SomeGrad"
            del node.input[3:]  # the saved statistics, which nothing makes any more
    onnx.save(model, source)
    result = run("rewrite", source, "-o", tmp_path / "out.onnx", "--data-parallel")
    assert result.stdout.splitlines()[-1] == f"wrote {tmp_path / 'out.onnx'}"
    assert "nothing to rewrite" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--synchronize", "--portable"], "portable and synchronize exclude each other"),
        (["--synchronize=size:x"], "group 'size:x' needs a number of replicas"),
        (["--synchronize-layers", "nowhere"], "'nowhere' chooses no batch norm"),
    ],
)
def test_what_is_refused_is_one_line(run, tmp_path, options, reason):
    result = run("rewrite", RESNET, "-o", tmp_path / "out.onnx", *options)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("onnx-cbp: ")
    assert reason in line
    assert not list(tmp_path.iterdir())


class TestNothingIsHalfWritten:
    @pytest.fixture
    def out(self, tmp_path):
        """An older file, which must survive."""
        path = tmp_path / "out.onnx"
        path.write_bytes(b"older")
        return path

    @pytest.fixture(autouse=True)
    def _old_file_survives(self, out, forward):
        yield
        assert out.read_bytes() == b"older"
        assert sorted(p.name for p in out.parent.iterdir()) == ["forward.onnx", "out.onnx"]

    def test_full_disk(self, run, forward, out, monkeypatch):
        def half(model, path, **options):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(onnx, "save_model", half)
        result = run("rewrite", forward, "-o", out)
        assert result.exit_code == 2
        assert result.stderr == f"onnx-cbp: '{out}' cannot be written: No space left on device\n"

    @pytest.mark.parametrize("signal", [KeyboardInterrupt])
    def test_interrupted(self, run, forward, out, monkeypatch, signal):
        def half(model, path, **options):
            Path(path).write_bytes(b"half")
            raise signal

        monkeypatch.setattr(onnx, "save_model", half)
        result = run("rewrite", forward, "-o", out)
        assert result.exit_code == 130
        assert "Traceback" not in result.stderr

    def test_bad_model(self, run, forward, out):
        forward.write_bytes(forward.read_bytes()[:-20])
        assert run("rewrite", forward, "-o", out).exit_code == 2


def test_devices_are_not_replaced(run, forward):
    result = run("rewrite", forward, "-o", "/dev/null")
    assert result.exit_code == 2
    assert result.stderr == "onnx-cbp: '/dev/null' is no regular file: name an .onnx file to write\n"
    assert Path("/dev/null").is_char_device()
