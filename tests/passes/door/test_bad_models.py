"""Files that are no models: one clear line, nothing written."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp.model_files.model_io import load_model, save_model
from support.models import FORWARD, parse


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(parse(FORWARD), path)
    return path


def _message(path):
    with pytest.raises(onnx_cbp.OnnxCbpError) as caught:
        onnx_cbp.rewrite(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_paths_are_taken_as_text_and_as_path(model_file):
    assert onnx_cbp.rewrite(str(model_file)) == onnx_cbp.rewrite(model_file)


def test_a_missing_file(tmp_path):
    assert "does not exist" in _message(tmp_path / "nowhere.onnx")


def test_a_folder(tmp_path):
    assert "folder" in _message(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, I am no model\n", b"\x00" * 100, b"\xff" * 1000])
def test_no_model_at_all(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "not an ONNX model" in _message(path)


def test_a_truncated_model_at_every_length(model_file):
    whole = model_file.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        model_file.write_bytes(whole[:length])
        # A cut at the end of a field is a valid, shorter message; what must not happen is any other error.
        with contextlib.suppress(onnx_cbp.OnnxCbpError):
            onnx_cbp.rewrite(model_file)


def test_external_data_that_is_missing(tmp_path):
    path = tmp_path / "model.onnx"
    model = parse(FORWARD)
    tensor = onnx.numpy_helper.from_array(np.zeros(1000, np.float32), "w")
    model.graph.initializer.append(tensor)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert len(load_model(path).graph.initializer[0].raw_data) == 4000
    (tmp_path / "weights").unlink()
    assert "external data" in _message(path)


def test_a_graph_that_is_not_valid():
    model = parse(FORWARD)
    model.graph.node.append(model.graph.node[0])  # every output is defined twice
    with pytest.raises(onnx_cbp.OnnxCbpError, match="not valid ONNX"):
        onnx_cbp.rewrite(model)


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    target = tmp_path / "out.onnx"
    target.write_bytes(b"precious")

    def full_disk(model, path):
        Path(path).write_bytes(b"half a mod")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save_model", full_disk)
    with pytest.raises(onnx_cbp.OnnxCbpError, match="No space left"):
        save_model(parse(FORWARD), target)
    assert target.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(onnx_cbp.OnnxCbpError, match="does not exist"):
        save_model(parse(FORWARD), tmp_path / "nowhere" / "out.onnx")
